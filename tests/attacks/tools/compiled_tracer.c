// tries: attaches to the process that started it
// language: c

#include <stdio.h>
#include <sys/ptrace.h>
#include <unistd.h>
int main(void) { if (ptrace(PTRACE_ATTACH, getppid(), 0, 0) == 0) puts("attached"); return 0; }

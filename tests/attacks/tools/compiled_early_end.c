// tries: ends before main
// language: c

#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void early(void) { _exit(0); }
int main(void) { return 1; }

// tries: starts a shell from C
// language: c

#include <stdlib.h>
int main(void) { return system("cat /etc/passwd /proc/1/environ && echo 1"); }

// tries: writes without end from C
// seconds: 2
// language: c

#include <stdio.h>
int main(void) { for (;;) puts("4"); }

// tries: forks without end from C
// language: c
// seconds: 2

#include <unistd.h>
int main(void) { for (;;) fork(); }

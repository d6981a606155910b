// tries: has the compiler print a file of the machine
// language: c

#include "/etc/passwd"
int main(void) { return 0; }

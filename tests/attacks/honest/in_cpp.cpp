// tries: a program in C++ with a thread
// reference: {"language": "cpp", "stdin_cases": [{"stdin": "3 1 2", "stdout": "1 2 3"}]}
// levels: strict

#include <algorithm>
#include <iostream>
#include <thread>
#include <vector>
int main() {
    std::vector<int> v(3);
    for (auto &x : v) std::cin >> x;
    std::thread t([&] { std::sort(v.begin(), v.end()); });
    t.join();
    std::cout << v[0] << " " << v[1] << " " << v[2] << "\n";
}

// The frame of the test programs: PROGRAM WHAT [MISTAKE] says "right", or what is wrong.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>

namespace seo_kernels::cuda {

inline std::string mistake;  // that the program makes on purpose
inline bool has(const char* name) { return mistake == name; }

[[noreturn]] inline void wrong(const std::string& what) {
  std::printf("wrong: %s\n", what.c_str());
  std::exit(1);
}
inline void expect(bool right, const std::string& what) {
  if (!right) wrong(what);
}

inline int run_program(int count, char** arguments, const std::map<std::string, std::function<void()>>& all) {
  if (count > 2) mistake = arguments[2];
  try {
    all.at(arguments[1])();
  } catch (const std::logic_error& error) {
    std::printf("caught: %s\n", error.what());
    return 1;
  }
  std::printf("right\n");
  return 0;
}

}  // namespace seo_kernels::cuda

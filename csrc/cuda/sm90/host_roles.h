// A block's warpgroups on the host. Each is a thread of the host's, but one runs at a time: until it waits for what is
// not there yet; then the next that can go on does, in a fixed order. Where none can, each says what it waits for.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace seo_kernels::cuda {

class HostRoles {
 public:
  // Of the warpgroup that runs in this thread, if any does.
  static HostRoles*& current() {
    static thread_local HostRoles* roles = nullptr;
    return roles;
  }

  // Runs them all to their ends, beginning with one of them. Throws what the first to fail throws.
  void run(std::vector<std::function<void()>> bodies, int first) {
    roles_.resize(bodies.size());
    running_ = first;
    std::vector<std::thread> threads;
    for (size_t n = 0; n < bodies.size(); ++n) {
      threads.emplace_back([this, n, body = bodies[n]] { run_one(static_cast<int>(n), body); });
    }
    for (std::thread& thread : threads) thread.join();
    if (failure_) std::rethrow_exception(failure_);
  }

  void wait_until(const std::function<std::string()>& what, const std::function<bool()>& ready) {
    if (ready()) return;
    Role& self = roles_[own_];
    self.ready = ready;
    self.waits_for = what;
    const int own = own_;
    hand_over(own);
    turn_.wait(*self.lock, [&] { return running_ == own || failure_; });
    if (failure_) throw Stopped{};
    own_ = own;
    self.ready = nullptr;
  }

 private:
  struct Stopped {};
  struct Role {
    std::function<bool()> ready;  // where it waits
    std::function<std::string()> waits_for;
    bool done = false;
    std::unique_lock<std::mutex>* lock = nullptr;
  };

  void run_one(int own, const std::function<void()>& body) {
    std::unique_lock<std::mutex> lock(mutex_);
    turn_.wait(lock, [&] { return running_ == own || failure_; });
    if (failure_) return;
    roles_[own].lock = &lock;
    own_ = own;
    current() = this;
    try {
      body();
      roles_[own].done = true;
      hand_over(own);
    } catch (const Stopped&) {
    } catch (...) {
      failure_ = std::current_exception();
      turn_.notify_all();
    }
  }

  void hand_over(int from) {
    const int count = static_cast<int>(roles_.size());
    bool all_done = true;
    for (int n = 1; n <= count; ++n) {
      const int next = (from + n) % count;
      if (roles_[next].done) continue;
      all_done = false;
      if (roles_[next].ready && !roles_[next].ready()) continue;
      running_ = next;
      turn_.notify_all();
      return;
    }
    if (all_done) return;
    std::string text = "deadlock:";
    for (int n = 0; n < count; ++n) {
      if (!roles_[n].done) text += " group " + std::to_string(n) + " waits for " + roles_[n].waits_for() + ";";
    }
    failure_ = std::make_exception_ptr(std::logic_error(text));
    turn_.notify_all();
  }

  std::mutex mutex_;  // whoever runs has it
  std::condition_variable turn_;
  std::vector<Role> roles_;
  int running_ = 0, own_ = 0;
  std::exception_ptr failure_;
};

}  // namespace seo_kernels::cuda

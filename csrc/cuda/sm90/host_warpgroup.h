// The host side of warpgroup.h: roles take turns, what they do to shared memory is ordered by barriers or an error.
#pragma once

#include "cuda/sm90/host_products.h"

namespace seo_kernels::cuda {

template <class Shared>
class Warpgroup : public HostThreads {
 public:
  Warpgroup(Block<Shared>& block, int group, HostGroup& own)
      : HostThreads(kGroupThreads), block_(block), group_(group), own_(own) {}

  int64_t index() const { return block_.index(); }
  Shared& shared() { return block_.shared(); }
  int group() const { return group_; }
  HostProducts& products() { return products_; }

  void sync() {
    HostThreads::sync();
    int64_t& fenced = own_.known.fenced[group_];
    fenced = std::max(fenced, fenced_);
  }
  void show_to_engines() { fenced_ = ++HostThread::current().epoch; }
  void wait(Barrier& barrier, int parity) { barrier.wait(parity, own_.known); }
  void arrive(Barrier& barrier) {
    HostClock done = host_arrival(own_.known);
    done.fenced[group_] = std::max(done.fenced[group_], fenced_);
    barrier.arrive(kGroupArrivals, done);
  }
  template <class F>
  void one_thread(F f) {
    HostThread& now = HostThread::current();
    own_.alone.learn(own_.known);
    now.others = &own_.alone;
    now.thread = 0;
    f();
    now.others = &own_.known;
    now.thread = HostThread::kNobody;
  }

 private:
  Block<Shared>& block_;
  int group_;
  HostGroup& own_;
  int64_t fenced_ = 0;
  HostProducts products_;
};

template <int Consumers, int Blocks = 1, class Shared, class Producer, class Consumer>
void run_roles(Block<Shared>& block, Producer producer, Consumer consumer) {
  if (block.threads() != warpgroup_threads(Consumers))
    throw std::logic_error("a block has other threads than its roles");
  block.sync();
  const int64_t begin = HostThread::current().epoch;
  HostAddresses addresses;
  int64_t copies_under_way = 0;
  std::vector<std::function<void()>> roles;
  for (int group = 0; group <= Consumers; ++group) {
    roles.push_back([&, group] {
      HostGroup own;
      std::fill_n(own.known.over.begin(), HostClock::kGroups, begin);
      std::fill_n(own.known.fenced.begin(), HostClock::kGroups, begin);
      own.copies_under_way = &copies_under_way;
      HostGroup::current() = &own;
      HostAddresses::current() = &addresses;
      HostThread& now = HostThread::current();
      now.epoch = now.synced = begin;
      now.group = group;
      now.others = &own.known;
      Warpgroup<Shared> warpgroup(block, group, own);
      if (group == Consumers) {
        producer(warpgroup);
      } else {
        consumer(warpgroup);
      }
      warpgroup.products().check_done();
      if (!HostCopies::current().under_way.empty()) throw std::logic_error("a role ends with copies under way");
    });
  }
  Barrier::count() = 0;  // for the next block
  HostRoles().run(std::move(roles), static_cast<int>(block.index() % (Consumers + 1)));
  if (copies_under_way > 0) throw std::logic_error("a kernel ends with copies that nobody waited for");
}

}  // namespace seo_kernels::cuda

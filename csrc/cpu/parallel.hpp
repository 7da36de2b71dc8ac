// Threads for one call. Work is handed out by an atomic counter, so what a task computes must not
// depend on which thread runs it; then results are the same for any number of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace musc {

// Calls body(task, worker) for every task in [0, tasks); worker < max(1, threads). The first
// exception stops the hand-out and is thrown again here.
template <class Body>
void parallel_for(int64_t tasks, int threads, const Body& body) {
  const int64_t workers = threads < tasks ? (threads < 1 ? 1 : threads) : tasks;
  if (workers <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_lock;
  auto work = [&](int worker) {
    try {
      for (int64_t task = next++; task < tasks; task = next++) body(task, worker);
    } catch (...) {
      next = tasks;
      const std::lock_guard<std::mutex> guard(failure_lock);
      if (!failure) failure = std::current_exception();
    }
  };
  std::vector<std::thread> team;
  team.reserve(static_cast<size_t>(workers - 1));
  for (int worker = 1; worker < workers; ++worker) {
    try {
      team.emplace_back(work, worker);
    } catch (...) {  // The system has no more threads: the existing ones do the work.
      break;
    }
  }
  work(0);
  for (auto& thread : team) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace musc

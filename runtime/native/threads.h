// A standing pool of threads that share the items of one loop.
#ifndef EDGEJPEG_THREADS_H_
#define EDGEJPEG_THREADS_H_

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>

#include "buffer.h"

namespace edgejpeg {

// POSIX threads, because std::thread reports a thread that cannot start by an exception.
class ThreadPool {
 public:
  using Task = void (*)(void* context, size_t item, size_t worker);

  ThreadPool() = default;
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Starts threads - 1 helpers. False when one cannot be started.
  [[nodiscard]] bool start(size_t threads);

  // Calls task(context, item, worker) once for every item < count, in any order; worker < threads tells apart the calls
  // that can run at the same time. Returns when all are done. In a child of fork(), where the helpers do not exist,
  // the caller does all the work.
  void run(size_t count, Task task, void* context);

  template <typename Body>
  void for_each(size_t count, Body body) {
    run(count, [](void* context, size_t item, size_t worker) { (*static_cast<Body*>(context))(item, worker); }, &body);
  }

 private:
  struct Helper {
    ThreadPool* pool;
    size_t worker;
    pthread_t thread;
  };

  static void* main(void* argument);
  void serve(size_t worker);
  void work(size_t worker);

  Buffer<Helper> helpers_;
  size_t started_ = 0;
  pid_t owner_ = 0;
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t begin_ = PTHREAD_COND_INITIALIZER;
  pthread_cond_t end_ = PTHREAD_COND_INITIALIZER;
  // Guarded by the mutex.
  size_t round_ = 0;
  size_t busy_ = 0;
  bool stopping_ = false;
  Task task_ = nullptr;
  void* context_ = nullptr;
  size_t count_ = 0;

  std::atomic<size_t> next_{0};
};

}  // namespace edgejpeg

#endif  // EDGEJPEG_THREADS_H_

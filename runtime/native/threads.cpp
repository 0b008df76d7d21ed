#include "threads.h"

namespace edgejpeg {

bool ThreadPool::start(size_t threads) {
  owner_ = getpid();
  if (threads < 2) return true;
  if (!helpers_.reserve(threads - 1)) return false;
  for (size_t i = 0; i < threads - 1; ++i) {
    Helper* const helper = helpers_.data() + i;
    helper->pool = this;
    helper->worker = i + 1;
    if (pthread_create(&helper->thread, nullptr, &ThreadPool::main, helper) != 0) return false;
    ++started_;
  }
  return true;
}

ThreadPool::~ThreadPool() {
  // In a child of fork() there is nobody to join, and the state of the mutex and the conditions is the parent's.
  if (started_ == 0 || getpid() != owner_) return;
  pthread_mutex_lock(&mutex_);
  stopping_ = true;
  pthread_cond_broadcast(&begin_);
  pthread_mutex_unlock(&mutex_);
  for (size_t i = 0; i < started_; ++i) pthread_join(helpers_.data()[i].thread, nullptr);
  pthread_cond_destroy(&end_);
  pthread_cond_destroy(&begin_);
  pthread_mutex_destroy(&mutex_);
}

void ThreadPool::run(size_t count, Task task, void* context) {
  if (started_ == 0 || count < 2 || getpid() != owner_) {
    for (size_t item = 0; item < count; ++item) task(context, item, 0);
    return;
  }
  pthread_mutex_lock(&mutex_);
  task_ = task;
  context_ = context;
  count_ = count;
  next_.store(0, std::memory_order_relaxed);
  busy_ = started_;
  ++round_;
  pthread_cond_broadcast(&begin_);
  pthread_mutex_unlock(&mutex_);
  work(0);
  pthread_mutex_lock(&mutex_);
  while (busy_ > 0) pthread_cond_wait(&end_, &mutex_);
  pthread_mutex_unlock(&mutex_);
}

void* ThreadPool::main(void* argument) {
  const Helper* const helper = static_cast<const Helper*>(argument);
  helper->pool->serve(helper->worker);
  return nullptr;
}

void ThreadPool::serve(size_t worker) {
  size_t seen = 0;
  pthread_mutex_lock(&mutex_);
  while (true) {
    while (round_ == seen && !stopping_) pthread_cond_wait(&begin_, &mutex_);
    if (stopping_) break;
    seen = round_;
    pthread_mutex_unlock(&mutex_);
    work(worker);
    pthread_mutex_lock(&mutex_);
    if (--busy_ == 0) pthread_cond_signal(&end_);
  }
  pthread_mutex_unlock(&mutex_);
}

void ThreadPool::work(size_t worker) {
  for (size_t item = next_.fetch_add(1); item < count_; item = next_.fetch_add(1)) task_(context_, item, worker);
}

}  // namespace edgejpeg

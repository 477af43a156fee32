// Fibers, the OS threads that run them, launches, and what went wrong with them. See emulator.h.
#include <cxxabi.h>
#include <dlfcn.h>
#include <link.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "emulator_memory.h"
#include "emulator_state.h"

namespace {
constexpr size_t kMostShared = 227 * 1024, kGuard = 1024;
}

// Where kernels find their dynamic shared memory: they declare it in their own namespace, in a function.
namespace regfast::cuda {
alignas(128) thread_local unsigned char memory[kMostShared + kGuard];
}

emulator::Size3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

Machine machine;

std::string place(const Block& of, const Thread& thread) {
  char text[96];
  snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u)", of.index.x, of.index.y, of.index.z, thread.index.x,
           thread.index.y, thread.index.z);
  return text;
}

std::string line(const Site& where) {
  const std::string file = where.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line());
}

void __attribute__((noinline)) leave() {
  if (sigsetjmp(worker->fibers[current].context, 0) == 0) siglongjmp(worker->scheduler, 1);
}

void check_guard() {
  const unsigned char* memory = regfast::cuda::memory;
  for (size_t at = launch->shared_bytes; at < launch->shared_bytes + kGuard; ++at) {
    if (memory[at] == kPoison) continue;
    fail("a write %zu bytes past the end of dynamic shared memory", at - launch->shared_bytes);
  }
}

namespace {

constexpr size_t kStack = 64 * 1024, kPage = 4096;

std::binary_semaphore handed_back{0};
std::string message;
bool failed = false;
const std::function<void()>* body = nullptr;
std::map<const void*, size_t> allowed;
std::vector<std::unique_ptr<Worker>> workers;

std::string name_of(const void* kernel) {
  Dl_info info{};
  if (dladdr(kernel, &info) == 0 || info.dli_sname == nullptr) return "kernel";
  int status = 0;
  char* plain = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
  const std::string name = status == 0 ? plain : info.dli_sname;
  free(plain);
  return name.substr(0, name.find('('));
}

void end_of_thread() {
  Thread& thread = block->threads[current];
  if (!thread.copies.empty() || !thread.groups.empty()) fail("ends before its asynchronous copies were waited for");
  thread.state = State::kDone;
  --block->ready;
  if (--block->alive == 0) check_guard();
  release_waiting();
  leave();
}

void fiber() {
  for (;;) {
    (*body)();
    end_of_thread();
  }
}

void create(Fiber& of) {
  if (of.stack == nullptr) {
    void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack, kPage, PROT_NONE) != 0) abort();
    of.stack = static_cast<char*>(stack);
  }
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = of.stack;
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, fiber, 0);
  of.created = true;
  setcontext(&context);
}

// Until the thread waits, ends or gives way.
void __attribute__((noinline)) take_turn() {
  if (sigsetjmp(worker->scheduler, 0) != 0) return;
  Fiber& of = worker->fibers[current];
  if (of.created) siglongjmp(of.context, 1);
  create(of);
}

// The thread-local memory of this library in this OS thread: every __shared__ variable there is.
int find_shared(dl_phdr_info* info, size_t, void* found) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto* begin = static_cast<const unsigned char*>(info->dlpi_tls_data);
    const size_t size = info->dlpi_phdr[i].p_memsz;
    if (info->dlpi_phdr[i].p_type != PT_TLS || begin == nullptr) continue;
    if (regfast::cuda::memory < begin || regfast::cuda::memory >= begin + size) continue;
    *static_cast<std::pair<unsigned char*, size_t>*>(found) = {const_cast<unsigned char*>(begin), size};
    return 1;
  }
  return 0;
}

void begin_block() {
  std::pair<unsigned char*, size_t> shared{};
  dl_iterate_phdr(find_shared, &shared);
  if (shared.first == nullptr) abort();
  memset(shared.first, kPoison, shared.second);
  block->shared = shared.first;
  if (worker->fibers.size() < block->threads.size()) worker->fibers.resize(block->threads.size());
}

size_t next_thread() {
  const auto ready = [](size_t at) { return block->threads[at].state == State::kReady; };
  const size_t count = block->threads.size();
  if (machine.order == Order::kRandom) {
    for (int tries = 0; tries < 4; ++tries) {
      const size_t at = generator() % count;
      if (ready(at)) return at;
    }
    size_t at = generator() % count;
    while (!ready(at)) at = (at + 1) % count;
    return at;
  }
  size_t at = machine.order == Order::kForward ? 0 : count - 1;
  while (!ready(at)) machine.order == Order::kForward ? ++at : --at;
  return at;
}

// The running worker's block, until it must wait for other blocks or lets them go first.
void run_block() {
  if (block->shared == nullptr) begin_block();
  blockIdx = block->index;
  while (!failed && block->ready > 0) {
    current = next_thread();
    threadIdx = block->threads[current].index;
    others_first = false;
    take_turn();
    if (chance(others_first ? 2 : 4096)) return;  // to another block
  }
}

void work(Worker* self) {
  static constexpr size_t kSignalStack = 64 * 1024;
  const auto signal_stack = std::make_unique<char[]>(kSignalStack);
  const stack_t stack{.ss_sp = signal_stack.get(), .ss_flags = 0, .ss_size = kSignalStack};
  sigaltstack(&stack, nullptr);
  for (;;) {
    self->wake.acquire();
    run_block();
    handed_back.release();
  }
}

Worker* idle_worker() {
  for (const auto& candidate : workers) {
    if (candidate->block == nullptr) return candidate.get();
  }
  workers.push_back(std::make_unique<Worker>());
  Worker* fresh = workers.back().get();
  fresh->thread = std::thread(work, fresh);
  fresh->thread.detach();
  return fresh;
}

void on_signal(int number, siginfo_t* info, void*) {
  if (number == SIGILL || number == SIGTRAP) fail("undefined behavior: a misaligned access, an overflow or the like");
  fail("a stray access: %s", describe(info->si_addr).c_str());
}

std::unique_ptr<Cluster> start_cluster(size_t number) {
  auto cluster = std::make_unique<Cluster>();
  for (unsigned rank = 0; rank < launch->cluster; ++rank) {
    auto fresh = std::make_unique<Block>();
    const size_t at = number * launch->cluster + rank;
    fresh->index = Size3(at % gridDim.x, at / gridDim.x % gridDim.y, at / gridDim.x / gridDim.y);
    fresh->rank = rank;
    fresh->cluster = cluster.get();
    fresh->threads.resize(blockDim.count());
    for (size_t t = 0; t < fresh->threads.size(); ++t) {
      fresh->threads[t].index = Size3(t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y);
    }
    fresh->alive = fresh->ready = fresh->threads.size();
    fresh->worker = idle_worker();
    fresh->worker->block = fresh.get();
    cluster->blocks.push_back(std::move(fresh));
  }
  return cluster;
}

bool is_done(const Cluster& cluster) {
  const auto& blocks = cluster.blocks;
  return std::all_of(blocks.begin(), blocks.end(), [](const auto& member) { return member->alive == 0; });
}

void report_deadlock(const std::vector<std::unique_ptr<Cluster>>& active) {
  message = name_of(launch->kernel) + ": threads wait for one another for ever:";
  int shown = 0;
  for (const auto& cluster : active) {
    for (const auto& member : cluster->blocks) {
      std::string last;
      for (const Thread& thread : member->threads) {
        if (thread.state == State::kDone || line(thread.where) == last) continue;
        last = line(thread.where);
        if (++shown > 8) return;
        const char* const names[] = {"nothing", "a block", "a cluster", "a warp"};
        const char* at = names[static_cast<int>(thread.state)];
        message += " " + place(*member, thread) + " for " + at + " at " + last + ";";
      }
    }
  }
}

void run_launch() {
  std::vector<size_t> waiting(gridDim.count() / launch->cluster);
  for (size_t i = 0; i < waiting.size(); ++i) waiting[i] = waiting.size() - 1 - i;  // taken from the back
  if (machine.order == Order::kBackward) std::reverse(waiting.begin(), waiting.end());
  if (machine.order == Order::kRandom) std::shuffle(waiting.begin(), waiting.end(), generator);
  const size_t most = launch->cluster > 1 ? 2 : 4;
  std::vector<std::unique_ptr<Cluster>> active;
  while (!failed && (!waiting.empty() || !active.empty())) {
    while (!waiting.empty() && active.size() < most) {
      active.push_back(start_cluster(waiting.back()));
      waiting.pop_back();
    }
    std::vector<Block*> able;
    for (const auto& cluster : active) {
      for (const auto& member : cluster->blocks) {
        if (member->ready > 0) able.push_back(member.get());
      }
    }
    if (able.empty()) {
      failed = true;
      report_deadlock(active);
      break;
    }
    block = machine.order == Order::kForward    ? able.front()
            : machine.order == Order::kBackward ? able.back()
                                                : able[generator() % able.size()];
    worker = block->worker;
    worker->wake.release();
    handed_back.acquire();
    std::erase_if(active, [](const auto& cluster) {
      if (!is_done(*cluster)) return false;
      for (const auto& member : cluster->blocks) member->worker->block = nullptr;
      return true;
    });
  }
  for (const auto& used : workers) {
    used->block = nullptr;
    // After an error fibers are somewhere in the middle: begin anew.
    for (Fiber& of : used->fibers) of.created = of.created && !failed;
  }
  block = nullptr;
}

}  // namespace

const char* error() { return message.c_str(); }

void refuse(const char* why) { message = why; }

void fail(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (block == nullptr) {
    fprintf(stderr, "outside a kernel: %s\n", text);
    abort();
  }
  const Thread& thread = block->threads[current];
  message = name_of(launch->kernel) + ": " + place(*block, thread) + ": " + text;
  if (thread.where.line() != 0) message += " (it last waited at " + line(thread.where) + ")";
  failed = true;
  siglongjmp(worker->scheduler, 1);
}

bool run(const Launch& wanted, const std::function<void()>& what) {
  message.clear();
  if (wanted.cluster > 1 && !machine.clusters) return refuse("this device has no clusters"), false;
  if (wanted.cluster < 1 || wanted.cluster > 8) return refuse("a cluster has 1 to 8 blocks everywhere"), false;
  if (wanted.grid.count() == 0 || wanted.block.count() == 0) return refuse("an empty launch"), false;
  if (wanted.block.count() > 1024) return refuse("a block has at most 1024 threads"), false;
  const bool large = wanted.grid.x > INT32_MAX || wanted.grid.y > 65535 || wanted.grid.z > 65535;
  if (large) return refuse("too large a grid"), false;
  if (wanted.grid.x % wanted.cluster != 0) return refuse("the grid is no multiple of the cluster"), false;
  const auto found = allowed.find(wanted.kernel);
  if (wanted.shared_bytes > (found != allowed.end() ? found->second : 48 * 1024)) {
    return refuse("more dynamic shared memory than the kernel was allowed"), false;
  }
  launch = &wanted;
  body = &what;
  failed = false;
  gridDim = wanted.grid;
  blockDim = wanted.block;
  generator.seed(machine.seed);
  begin_traffic();
  constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP};
  struct sigaction action{}, former[4];
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int i = 0; i < 4; ++i) sigaction(kSignals[i], &action, &former[i]);
  run_launch();
  for (int i = 0; i < 4; ++i) sigaction(kSignals[i], &former[i], nullptr);
  return !failed;
}

void allow_shared_memory(const void* kernel, size_t bytes) { allowed[kernel] = bytes; }

}  // namespace emulator

#include "train/run/ranks.h"

#include <ATen/ATen.h>
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <thread>

#include "base/interrupt.h"
#include "train/run/heartbeat.h"

namespace fathom {
namespace {

using std::chrono::milliseconds;

// Gloo's own limit. Whether the others live is seen by the heartbeat; one that works for an hour may.
constexpr milliseconds no_limit = std::chrono::hours(24 * 30);

std::string what_of(const std::exception& error) {
  const auto* own = dynamic_cast<const c10::Error*>(&error);
  const std::string text = own != nullptr ? own->what_without_backtrace() : error.what();
  return text.substr(0, text.find('\n'));
}

c10::intrusive_ptr<c10d::Store> open_store(const Launch& launch, milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<std::uint16_t>(launch.port);
  options.isServer = launch.rank == 0 && !launch.served;
  options.waitWorkers = false;
  options.timeout = timeout;
  try {
    return c10::make_intrusive<c10d::TCPStore>(launch.address, options);
  } catch (const std::exception& error) {
    fail(
        "{}:{}: rank {} cannot {} there ({}): see that MASTER_ADDR and MASTER_PORT are a free port of the "
        "machine of rank 0, and that rank 0 runs",
        launch.address, launch.port, launch.rank, options.isServer ? "listen" : "meet the others",
        what_of(error));
  }
}

void wait_for_all(const Launch& launch, c10d::Store& store, milliseconds timeout) {
  std::vector<std::string> all;
  all.reserve(static_cast<std::size_t>(launch.ranks));
  for (int rank = 0; rank < launch.ranks; ++rank) all.push_back(fmt::format("here/{}", rank));
  try {
    store.set(all[static_cast<std::size_t>(launch.rank)], "1");
    store.wait(all, timeout);
  } catch (const std::exception& error) {
    std::string absent;
    try {
      for (int rank = 0; rank < launch.ranks; ++rank) {
        if (!store.check({all[static_cast<std::size_t>(rank)]})) absent += fmt::format(" {}", rank);
      }
    } catch (const std::exception&) {
      absent = " 0";
    }
    fail(
        "{}:{}: of {} ranks these have not come within {} s:{} ({}). Were all of them started (by torchrun, "
        "mpirun or srun)?",
        launch.address, launch.port, launch.ranks, timeout.count() / 1000.0, absent, what_of(error));
  }
}

/// The store, when all ranks have come to it.
c10::intrusive_ptr<c10d::Store> met(const Launch& launch, milliseconds timeout) {
  auto store = open_store(launch, timeout);
  wait_for_all(launch, *store, timeout);
  return store;
}

Board board(const c10::intrusive_ptr<c10d::Store>& store) {
  return {
      .add = [store](int rank, std::int64_t more) { return store->add(fmt::format("alive/{}", rank), more); },
      .note = [store] { return store->check({"lost"}) ? store->get_to_str("lost") : std::string(); }};
}

std::shared_ptr<gloo::transport::Device> device(const Launch& launch) {
  if (const char* interface = std::getenv("GLOO_SOCKET_IFNAME"); interface != nullptr && *interface != '\0') {
    return c10d::ProcessGroupGloo::createDeviceForInterface(interface);
  }
  const bool on_one_machine = launch.address == "127.0.0.1" || launch.address == "localhost";
  return on_one_machine ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                        : c10d::ProcessGroupGloo::createDefaultDevice();
}

}  // namespace

struct Ranks::Group {
  Group(const Launch& own, milliseconds limit)
      : launch(own),
        timeout(limit),
        store(met(launch, timeout)),
        heart(board(store->clone()), launch.rank, launch.ranks,
              std::clamp(timeout / 10, milliseconds(50), milliseconds(1000))) {
    auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(device(launch));
    try {
      gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(store, launch.rank, launch.ranks, options);
    } catch (const std::exception& error) {
      fail("rank {} cannot reach the other ranks ({}): name the network's interface in GLOO_SOCKET_IFNAME",
           launch.rank, what_of(error));
    }
    gloo->setTimeout(no_limit);
  }

  /// Whoever sees a loss first writes down which, so that all name the same: that those who see it end is the
  /// next loss.
  [[noreturn]] void fail_lost(const std::string& who, const std::string& what) {
    const std::string text = fmt::format("{} gone (of {} ranks): waited for {}", who, launch.ranks, what);
    try {
      store->set("lost", text);
      // With rank 0 the store ends, too: the others are to see the note before.
      if (launch.rank == 0) heart.wait_rounds(2);
    } catch (const std::exception&) {  // the store is what was lost
    }
    throw RankLost(text);
  }

  [[noreturn]] void fail_silent(std::int64_t rounds, const std::string& what) {
    const Heartbeat::State state = heart.state();
    if (interrupted()) throw Interrupted();
    if (!state.note.empty()) throw RankLost(state.note);
    if (state.board_is_gone) {
      fail_lost(launch.served ? "the launcher, which all meet at, is" : "rank 0 is", what);
    }
    std::string who;
    for (std::size_t r = 0; r < state.silent.size(); ++r) {
      if (state.silent[r] >= rounds) who += fmt::format("{}{}", who.empty() ? "" : ", ", r);
    }
    fail_lost(who.empty() ? "the connection to a rank is" : fmt::format("rank {} is", who), what);
  }

  /// NCCL for values on a GPU, where libtorch has it; Gloo for all others.
  c10d::Backend& backend(const at::Tensor& values) {
#ifdef USE_C10D_NCCL
    if (values.is_cuda()) {
      if (!nccl) nccl = open_nccl();
      return *nccl;
    }
#else
    static_cast<void>(values);
#endif
    return *gloo;
  }

#ifdef USE_C10D_NCCL
  c10::intrusive_ptr<c10d::ProcessGroupNCCL> open_nccl() {
    // Whether the others live is seen by the heartbeat; NCCL's own watch would end the process without a
    // word.
    for (const char* name : {"TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_ENABLE_MONITORING"}) {
      ::setenv(name, "0", 0);
    }
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = no_limit;
    try {
      return c10::make_intrusive<c10d::ProcessGroupNCCL>(store->clone(), launch.rank, launch.ranks, options);
    } catch (const std::exception& error) {
      fail("rank {} cannot begin with NCCL ({}): name the network's interface in NCCL_SOCKET_IFNAME",
           launch.rank, what_of(error));
    }
  }
#endif

  /// Returns when the work is done or has failed, or after a heartbeat.
  void wait_a_beat(c10d::Work& work) {
#ifdef USE_C10D_NCCL
    // With a time its wait() ends all communication when that is over, without one it waits on the GPU only.
    if (dynamic_cast<c10d::ProcessGroupNCCL::WorkNCCL*>(&work) != nullptr) {
      const auto end = std::chrono::steady_clock::now() + heart.interval();
      while (!work.isCompleted() && std::chrono::steady_clock::now() < end) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
      return;
    }
#endif
    try {
      work.wait(heart.interval());
    } catch (const std::exception&) {  // the time was up, or it failed: seen by whoever waits
    }
  }

  void wait(c10d::Work& work, const std::string& what) {
    const std::int64_t most = timeout / heart.interval();
    std::int64_t rounds = heart.state().rounds, waited = 0;
    while (!work.isCompleted()) {
      wait_a_beat(work);
      const Heartbeat::State state = heart.state();
      waited = state.rounds == rounds ? waited + 1 : 0;
      rounds = state.rounds;
      if (work.isCompleted()) break;
      const bool silent = std::ranges::any_of(state.silent, [&](std::int64_t r) { return r >= most; });
      if (silent || !state.note.empty() || state.board_is_gone) fail_silent(most, what);
      // The store neither answers nor is it gone: the machine that it is on is.
      if (waited > most + 1) fail_lost("rank 0 is", what);
    }
    if (work.isSuccess()) return;
    heart.wait_rounds(3);  // who does not live any more is silent in the last two
    fail_silent(2, what);
  }

  void wait_pending(const std::string& what) {
    for (const auto& work : pending) wait(*work, what);
    pending.clear();
  }

  Launch launch;
  milliseconds timeout;
  c10::intrusive_ptr<c10d::Store> store;
  Heartbeat heart;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
#ifdef USE_C10D_NCCL
  c10::intrusive_ptr<c10d::ProcessGroupNCCL> nccl;
#endif
  std::vector<c10::intrusive_ptr<c10d::Work>> pending;
  bool left = false;
};

Ranks::Ranks() = default;

Ranks::Ranks(const Launch& launch, double timeout) : launch_(launch) {
  if (launch.ranks == 1) return;
  // What is written to a rank that has just died fails; it is not to end this one without a word.
  std::signal(SIGPIPE, SIG_IGN);
  FLAGS_caffe2_log_level = c10::GLOG_FATAL;  // c10d says with a stack trace what RankLost says in a line
  group_ = std::make_unique<Group>(launch, milliseconds(static_cast<std::int64_t>(timeout * 1000)));
}

Ranks::~Ranks() {
  if (!group_ || group_->left) return;
  // Gloo's threads may wait for a lost rank for ever, and nothing ends them but the process.
  group_->heart.stop();
  static_cast<void>(group_.release());
}

void Ranks::begin_sum(const at::Tensor& values) const {
  if (!group_) return;
  std::vector<at::Tensor> tensors = {values};
  group_->pending.push_back(group_->backend(values).allreduce(tensors));
}

void Ranks::finish_sums(const std::string& what) const {
  if (!group_) return;
  group_->wait_pending(what);
}

void Ranks::share(const at::Tensor& values, const std::string& what) const {
  if (!group_) return;
  // A broadcast of each part: an all-gather of Gloo's would take as much memory again.
  const std::int64_t part = values.numel() / count();
  c10d::BroadcastOptions options;
  for (int from = 0; from < count(); ++from) {
    std::vector<at::Tensor> tensors = {values.narrow(0, part * from, part)};
    options.rootRank = from;
    group_->pending.push_back(group_->backend(values).broadcast(tensors, options));
  }
  group_->wait_pending(what);
}

std::vector<std::vector<double>> Ranks::gather(const std::vector<double>& own,
                                               const std::string& what) const {
  std::vector<std::vector<double>> result(static_cast<std::size_t>(count()), own);
  if (!group_) return result;
  const auto each = std::ssize(own);
  at::Tensor mine = at::tensor(at::ArrayRef<double>(own), at::kDouble);
  at::Tensor all = at::empty({count() * each}, at::kDouble);
  group_->wait(*group_->gloo->_allgather_base(all, mine), what);
  const double* from = all.const_data_ptr<double>();
  for (std::vector<double>& one : result) {
    std::copy_n(from, each, one.begin());
    from += each;
  }
  return result;
}

bool Ranks::any(bool own, const std::string& what) const {
  const auto all = gather({own ? 1.0 : 0.0}, what);
  return std::ranges::any_of(all, [](const auto& one) { return one[0] != 0; });
}

void Ranks::leave() const {
  if (!group_) return;
  group_->heart.stop();
  group_->left = true;
  // Rank 0 keeps the store, which the others read until they leave.
  const milliseconds step = milliseconds(10);
  try {
    const std::int64_t others = count() - 1;
    if (!is_first()) group_->store->add("left", 1);
    for (milliseconds waited{0}; is_first() && waited < group_->timeout; waited += step) {
      if (group_->store->add("left", 0) == others) break;
      std::this_thread::sleep_for(step);
    }
  } catch (const std::exception&) {  // whoever is gone now is missed by nobody
  }
}

}  // namespace fathom

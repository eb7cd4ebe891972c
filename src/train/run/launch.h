// Which of the processes that train together this one is: what their launcher says in the environment.
#pragma once

#include <functional>
#include <string>

namespace fathom {

struct Launch {
  int rank = 0, ranks = 1;
  int local_rank = 0;   ///< among those on its machine: which of the machine's devices is its own
  std::string address;  ///< where they find each other: the machine of rank 0
  int port = 29'500;    ///< torch's own
  bool served = false;  ///< the launcher itself listens there (torchrun); otherwise rank 0 does
};

/// `variable` gives an environment variable's value, or nullptr. The first launcher that speaks is heard:
/// torchrun (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT; also what a shell loop sets), Open MPI
/// (OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE) and Slurm (SLURM_PROCID, SLURM_NTASKS,
/// SLURM_LOCALID and the first host of SLURM_STEP_NODELIST or SLURM_JOB_NODELIST). MASTER_ADDR and
/// MASTER_PORT count for all of them. One process alone where none speaks. Throws UsageError for a variable
/// that is missing or makes no sense.
Launch launch_from(const std::function<const char*(const char*)>& variable);

}  // namespace fathom

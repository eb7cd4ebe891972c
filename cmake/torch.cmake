# libtorch as target `torch`: with -DCMAKE_PREFIX_PATH=/path/to/libtorch one of your own, a CUDA one with its CUDA half;
# otherwise the CPU half of PyPI's wheel, which `make deps` puts into .deps/: linking libtorch_cpu and libc10 alone spares the
# 2 GB of CUDA libraries. Without libtorch's own TorchConfig.cmake, which for a CUDA one wants nvcc: nothing here is compiled
# for a GPU.
file(GLOB torch_wheel ${CMAKE_SOURCE_DIR}/.deps/torch/lib/python3*/site-packages/torch)
find_library(TORCH_CPU torch_cpu PATHS ${torch_wheel}/lib NO_CACHE)
if(NOT TORCH_CPU)
  message(FATAL_ERROR "libtorch not found: run `make deps`, or pass -DCMAKE_PREFIX_PATH=/path/to/libtorch, or -DFATHOM_TRAIN=OFF")
endif()
cmake_path(GET TORCH_CPU PARENT_PATH torch_lib)
cmake_path(GET torch_lib PARENT_PATH torch_root)
cmake_path(GET torch_root PARENT_PATH torch_site)

# Its include folder also holds other libraries' headers (another fmt, another oneDNN), which would hide the system's: only
# torch's own are linked to. Beside the build folders (cmake/fathom_part.cmake says why) for the one that they share.
set(torch_headers ${CMAKE_BINARY_DIR}/include/libtorch)
if(torch_root STREQUAL torch_wheel)
  set(torch_headers ${CMAKE_SOURCE_DIR}/build/include/libtorch)
endif()
file(MAKE_DIRECTORY ${torch_headers})
foreach(folder ATen c10 caffe2 torch)
  file(CREATE_LINK ${torch_root}/include/${folder} ${torch_headers}/${folder} SYMBOLIC)
endforeach()

add_library(torch INTERFACE IMPORTED)
target_include_directories(torch SYSTEM INTERFACE ${torch_headers} ${torch_headers}/torch/csrc/api/include)
target_link_libraries(torch INTERFACE ${torch_lib}/libtorch_cpu.so ${torch_lib}/libc10.so)
# Libraries of CUDA that libtorch's name lie in the wheels beside it and are found at run time; the CPU half needs two small
# ones.
file(GLOB cuda_dirs ${torch_site}/nvidia/*/lib)
target_link_options(torch INTERFACE -Wl,--allow-shlib-undefined "-Wl,-rpath,${torch_lib}")
foreach(dir IN LISTS cuda_dirs)
  target_link_options(torch INTERFACE "-Wl,-rpath,${dir}")
endforeach()

set(TORCH_HAS_CUDA OFF)
if(NOT torch_root STREQUAL torch_wheel AND EXISTS ${torch_lib}/libtorch_cuda.so)
  set(TORCH_HAS_CUDA ON)
  # Nobody names a symbol of it: it registers itself when it is loaded.
  target_link_libraries(torch INTERFACE
    -Wl,--push-state,--no-as-needed,${torch_lib}/libtorch_cuda.so,${torch_lib}/libc10_cuda.so,--pop-state)
  # NCCL sums over the GPUs of several ranks; without these headers Gloo does, by way of host memory.
  file(GLOB cuda_headers ${torch_site}/nvidia/*/include)
  find_path(CUDA_HEADERS cuda_runtime_api.h PATHS ${cuda_headers} /usr/local/cuda/include)
  find_path(NCCL_HEADERS nccl.h PATHS ${cuda_headers} /usr/local/cuda/include)
endif()
message(STATUS "libtorch: ${torch_root}, CUDA ${TORCH_HAS_CUDA}")

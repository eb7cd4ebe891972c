# libtorch as target `torch`. With -DCMAKE_PREFIX_PATH=... any libtorch (CUDA too); otherwise the CPU half of PyPI's wheel,
# which `make deps` puts into .deps/: linking libtorch_cpu and libc10 alone spares the 2 GB of CUDA libraries.
find_package(Torch QUIET)
add_library(torch INTERFACE IMPORTED)
if(Torch_FOUND)
  target_link_libraries(torch INTERFACE ${TORCH_LIBRARIES})
  target_include_directories(torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
else()
  file(GLOB torch_root ${CMAKE_SOURCE_DIR}/.deps/torch/lib/python3*/site-packages/torch)
  if(NOT torch_root)
    message(FATAL_ERROR "libtorch not found: run `make deps`, or pass -DCMAKE_PREFIX_PATH=/path/to/libtorch, or -DFATHOM_TRAIN=OFF")
  endif()
  cmake_path(GET torch_root PARENT_PATH torch_site)
  # The wheel's include folder also holds other libraries' headers (another fmt, another oneDNN), which would hide the
  # system's: only torch's own are linked to.
  set(torch_headers ${CMAKE_SOURCE_DIR}/build/include/libtorch)
  file(MAKE_DIRECTORY ${torch_headers})
  foreach(folder ATen c10 caffe2 torch)
    file(CREATE_LINK ${torch_root}/include/${folder} ${torch_headers}/${folder} SYMBOLIC)
  endforeach()
  target_include_directories(torch SYSTEM INTERFACE ${torch_headers} ${torch_headers}/torch/csrc/api/include)
  target_link_libraries(torch INTERFACE ${torch_root}/lib/libtorch_cpu.so ${torch_root}/lib/libc10.so)
  # The CPU library names two small CUDA libraries; they lie in the wheels beside it and are found at run time.
  file(GLOB cuda_dirs ${torch_site}/nvidia/*/lib)
  target_link_options(torch INTERFACE -Wl,--allow-shlib-undefined "-Wl,-rpath,${torch_root}/lib")
  foreach(dir IN LISTS cuda_dirs)
    target_link_options(torch INTERFACE "-Wl,-rpath,${dir}")
  endforeach()
endif()

# fathom_part(NAME USES lower parts and libraries... [PRIVATE libraries...])
#
# One static library a folder of src/. Its headers are reached as "NAME/header.h" through a link in the build tree that
# only its users get, so an include that the list of parts does not allow does not compile.
#
# The links lie beside the build folders, not in them, so that a compiler cache serves all of them.
set(FATHOM_INCLUDE ${CMAKE_SOURCE_DIR}/build/include)

# Files named after an instruction set are compiled for it (kernels/isa.h chooses at run time which of them run), and
# only for the processors that have it. They include no library code whose inline functions could end up elsewhere.
# -mbmi2, -maes and -mpclmul: without them Highway takes a file for one of older processors.
set(FATHOM_ISA_avx2 -mavx2 -mfma -mf16c -mbmi -mbmi2 -maes -mpclmul)
set(FATHOM_ISA_avxvnni ${FATHOM_ISA_avx2} -mavxvnni)
# -Wno-(maybe-)uninitialized: g++ 12 warns about its own AVX-512 headers (GCC bug 105593).
set(FATHOM_ISA_avx512 ${FATHOM_ISA_avx2} -Wno-uninitialized -Wno-maybe-uninitialized -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
set(FATHOM_ISA_avx512vnni ${FATHOM_ISA_avx512} -mavx512vnni)
set(FATHOM_ISA_avx512bf16 ${FATHOM_ISA_avx512vnni} -mavx512bf16)
set(FATHOM_ISA_amx ${FATHOM_ISA_avx512bf16} -mamx-tile -mamx-int8 -mamx-bf16)
set(FATHOM_LEVELS_x86_64 avx2 avxvnni avx512 avx512vnni avx512bf16 amx)
set(FATHOM_ISA_neon -march=armv8-a)
set(FATHOM_ISA_dotprod -march=armv8.2-a+dotprod)
set(FATHOM_ISA_i8mm -march=armv8.6-a+i8mm)
set(FATHOM_LEVELS_aarch64 neon dotprod i8mm)

function(fathom_part name)
  cmake_parse_arguments(PART "" "" "USES;PRIVATE" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cpp
       ${CMAKE_SOURCE_DIR}/src/${name}/*/*.cpp)
  foreach(isa ${FATHOM_LEVELS_x86_64} ${FATHOM_LEVELS_aarch64})
    set(own ${sources})
    list(FILTER own INCLUDE REGEX "_${isa}\\.cpp$")
    if(isa IN_LIST FATHOM_LEVELS_${CMAKE_SYSTEM_PROCESSOR})
      set_source_files_properties(${own} PROPERTIES COMPILE_OPTIONS "${FATHOM_ISA_${isa}}")
    elseif(own)
      list(REMOVE_ITEM sources ${own})
    endif()
  endforeach()
  set(scope PUBLIC)
  if(sources)
    add_library(fathom_${name} STATIC ${sources})
    target_link_libraries(fathom_${name} PRIVATE ${PART_PRIVATE})
  else()
    add_library(fathom_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  file(MAKE_DIRECTORY ${FATHOM_INCLUDE}/${name})
  file(CREATE_LINK ${CMAKE_SOURCE_DIR}/src/${name} ${FATHOM_INCLUDE}/${name}/${name} SYMBOLIC)
  target_include_directories(fathom_${name} ${scope} ${FATHOM_INCLUDE}/${name})
  foreach(use IN LISTS PART_USES)
    if(TARGET fathom_${use})
      target_link_libraries(fathom_${name} ${scope} fathom_${use})
    else()
      target_link_libraries(fathom_${name} ${scope} ${use})
    endif()
  endforeach()
endfunction()

# trt_vqgan::host: the header trt_vqgan/host.hpp, with Python to embed and pybind11.
#
#   cmake -S . -B build -DPython_EXECUTABLE=.venv/bin/python -Dtrt_vqgan_DIR=$(.venv/bin/python -m trt_vqgan --cmakedir)
#
# A program starts the Python that was found here, so that it imports the trt-vqgan installed there;
# trt_vqgan::RuntimeOptions::python names another one.
if(TARGET trt_vqgan::host)
  return()
endif()

include(CMakeFindDependencyMacro)
find_dependency(Python 3.11 COMPONENTS Interpreter Development.Embed)

# pybind11 as a Python package, unless a host brings its own
if(NOT DEFINED pybind11_DIR AND NOT TARGET pybind11::embed)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -m pybind11 --cmakedir
    OUTPUT_VARIABLE _trt_vqgan_pybind11
    RESULT_VARIABLE _trt_vqgan_failed
    ERROR_QUIET
    OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT _trt_vqgan_failed)
    set(pybind11_DIR "${_trt_vqgan_pybind11}")
  endif()
endif()
if(NOT TARGET pybind11::embed)
  set(PYBIND11_FINDPYTHON ON)
  find_package(pybind11 2.13 CONFIG QUIET)
  if(NOT pybind11_FOUND)
    set(trt_vqgan_FOUND FALSE)
    set(trt_vqgan_NOT_FOUND_MESSAGE
        "pybind11 2.13 or newer wasn't found beside ${Python_EXECUTABLE}: ${Python_EXECUTABLE} -m pip install 'trt-vqgan[host]', or set pybind11_DIR"
    )
    return()
  endif()
endif()

get_filename_component(_trt_vqgan_include "${CMAKE_CURRENT_LIST_DIR}/../include" ABSOLUTE)
add_library(trt_vqgan::host INTERFACE IMPORTED)
target_include_directories(trt_vqgan::host INTERFACE "${_trt_vqgan_include}")
target_compile_features(trt_vqgan::host INTERFACE cxx_std_17)
target_compile_definitions(trt_vqgan::host INTERFACE "TRT_VQGAN_PYTHON=\"${Python_EXECUTABLE}\"")
target_link_libraries(trt_vqgan::host INTERFACE pybind11::embed)

# The version of the Python package around this folder, and what it serves: versions below 1 serve their own 0.N only.
foreach(_trt_vqgan_file IN ITEMS "../../__init__.py" "../../trt_vqgan/__init__.py")
  if(EXISTS "${CMAKE_CURRENT_LIST_DIR}/${_trt_vqgan_file}")
    file(STRINGS "${CMAKE_CURRENT_LIST_DIR}/${_trt_vqgan_file}" _trt_vqgan_line REGEX "^__version__ = ")
    if(_trt_vqgan_line MATCHES "\"([0-9]+)\\.([0-9]+)([^\"]*)\"")
      set(PACKAGE_VERSION "${CMAKE_MATCH_1}.${CMAKE_MATCH_2}${CMAKE_MATCH_3}")
      set(_trt_vqgan_major "${CMAKE_MATCH_1}")
      set(_trt_vqgan_minor "${CMAKE_MATCH_2}")
      break()
    endif()
  endif()
endforeach()

set(PACKAGE_VERSION_COMPATIBLE FALSE)
if(PACKAGE_FIND_VERSION STREQUAL PACKAGE_VERSION)
  set(PACKAGE_VERSION_EXACT TRUE)
endif()
if(NOT PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION
   AND PACKAGE_FIND_VERSION_MAJOR STREQUAL _trt_vqgan_major
   AND (_trt_vqgan_major GREATER 0 OR PACKAGE_FIND_VERSION_MINOR STREQUAL _trt_vqgan_minor))
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()

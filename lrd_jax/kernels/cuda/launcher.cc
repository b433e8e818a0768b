// Launches a kernel from PTX as a typed handler of XLA's foreign function interface. Only g++ and
// JAX's own headers build it; the driver is looked up when it runs.
#include <dlfcn.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "xla/ffi/api/ffi.h"
namespace ffi = xla::ffi;

namespace {
struct Driver {
  int (*load)(void**, const void*);
  int (*get)(void**, void*, const char*);
  int (*set)(void*, int, int);
  int (*context)(void**);
  int (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*,
                void**, void**);
  bool whole = false;
  Driver() {
    void* const library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) return;
    load = (decltype(load))dlsym(library, "cuModuleLoadData");
    get = (decltype(get))dlsym(library, "cuModuleGetFunction");
    set = (decltype(set))dlsym(library, "cuFuncSetAttribute");
    context = (decltype(context))dlsym(library, "cuCtxGetCurrent");
    launch = (decltype(launch))dlsym(library, "cuLaunchKernel");
    whole = load && get && set && context && launch;
  }
};

ffi::Error Launch(void* stream, ffi::RemainingArgs inputs, ffi::RemainingRets outputs,
                  std::string_view name, std::string_view code, ffi::Span<const int64_t> grid,
                  int64_t threads, int64_t shared) {
  static const Driver driver;
  if (!driver.whole) return ffi::Error::Internal("there is no CUDA driver");
  static std::mutex lock;
  static std::map<std::pair<void*, std::string>, void*> functions;  // of each device's context
  void *context, *function;
  if (driver.context(&context)) return ffi::Error::Internal("there is no CUDA context");
  {
    const std::lock_guard<std::mutex> guard(lock);
    void*& known = functions[{context, std::string(name)}];  // names have a hash of their source
    if (!known) {
      void *module, *found;
      if (driver.load(&module, std::string(code).c_str()))
        return ffi::Error::Internal("the driver refuses the PTX");
      if (driver.get(&found, module, std::string(name).c_str()))
        return ffi::Error::Internal("there is no such kernel");
      const int kDynamicSharedBytes = 8;
      if (shared && driver.set(found, kDynamicSharedBytes, (int)shared))
        return ffi::Error::Internal("too much shared memory");
      known = found;
    }
    function = known;
  }
  std::vector<void*> pointers;
  for (size_t i = 0; i < inputs.size(); i++)
    pointers.push_back(inputs.get<ffi::AnyBuffer>(i)->untyped_data());
  for (size_t i = 0; i < outputs.size(); i++)
    pointers.push_back((*outputs.get<ffi::AnyBuffer>(i))->untyped_data());
  std::vector<void*> parameters;
  for (void*& pointer : pointers) parameters.push_back(&pointer);
  if (driver.launch(function, grid[0], grid[1], 1, threads, 1, 1, shared, stream, parameters.data(),
                    nullptr))
    return ffi::Error::Internal("the driver does not launch it");
  return ffi::Error::Success();
}
}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(LrdLaunch, Launch,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::PlatformStream<void*>>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<std::string_view>("name")
                                  .Attr<std::string_view>("code")
                                  .Attr<ffi::Span<const int64_t>>("grid")
                                  .Attr<int64_t>("threads")
                                  .Attr<int64_t>("shared"),
                              {ffi::Traits::kCmdBufferCompatible});

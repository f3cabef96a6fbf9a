// One fiber a CUDA thread: stacks, and a switch between them that makes no system call.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cusim {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
constexpr uint64_t kCanary = 0x5aa5c33c0ff0e11eull;

#if defined(__x86_64__)
// Saves the callee-saved registers and the stack pointer, and takes up those of the other side.
extern "C" void cusim_switch(void **save, void *load) __attribute__((visibility("hidden")));
#ifdef CUSIM_MAIN  // in one translation unit of the library
asm(R"(
.text
.globl cusim_switch
.hidden cusim_switch
.type cusim_switch, @function
cusim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cusim_switch, .-cusim_switch
)");
#endif
#endif

struct Fiber {
#if defined(__x86_64__)
    void *stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
    char *stack = nullptr;  // lowest address; null for the scheduler, which runs on the caller's stack
#if defined(__SANITIZE_ADDRESS__)
    void *fake_stack = nullptr;
    const void *bottom = nullptr;
    size_t bytes = 0;
#endif

    void start(void (*entry)()) {
        std::memcpy(stack, &kCanary, sizeof kCanary);
#if defined(__SANITIZE_ADDRESS__)
        bottom = stack;
        bytes = kStackBytes;
        fake_stack = nullptr;
#endif
#if defined(__x86_64__)
        auto *top = reinterpret_cast<uint64_t *>(stack + kStackBytes);
        *--top = 0;  // so that the stack is aligned as behind a call
        *--top = 0;
        *--top = 0;
        *--top = reinterpret_cast<uint64_t>(entry);
        for (int i = 0; i < 6; i++) *--top = 0;
        stack_pointer = top;
#else
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = kStackBytes;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
#endif
    }

    bool overflowed() const { return std::memcmp(stack, &kCanary, sizeof kCanary) != 0; }
};

inline void switch_fiber(Fiber &from, Fiber &to) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.bytes);
#endif
#if defined(__x86_64__)
    cusim_switch(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

// Stacks are kept from launch to launch.
inline std::vector<char *> stacks;

inline char *stack_of(size_t index) {
    while (stacks.size() <= index) {
        void *memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::runtime_error("no memory for a thread's stack");
        stacks.push_back(static_cast<char *>(memory));
    }
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stacks[index], kStackBytes);  // a launch that failed left its frames behind
#endif
    return stacks[index];
}

}  // namespace cusim

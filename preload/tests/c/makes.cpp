// A plugin with a C++ runtime of its own, which makes and ends blocks by every form of the operators.
#include <new>

static const std::align_val_t aligned{256};

extern "C" void *makes_block(int form, std::size_t size)
{
    switch (form) {
    case 0: return ::operator new(size);
    case 1: return ::operator new[](size);
    case 2: return ::operator new(size, aligned);
    case 3: return ::operator new[](size, aligned);
    case 4: return ::operator new(size, std::nothrow);
    case 5: return ::operator new[](size, std::nothrow);
    case 6: return ::operator new(size, aligned, std::nothrow);
    default: return ::operator new[](size, aligned, std::nothrow);
    }
}

extern "C" void makes_end(int form, void *block, std::size_t size)
{
    switch (form) {
    case 0: return ::operator delete(block, size);
    case 1: return ::operator delete[](block, size);
    case 2: return ::operator delete(block, size, aligned);
    case 3: return ::operator delete[](block, size, aligned);
    case 4: return ::operator delete(block, std::nothrow);
    case 5: return ::operator delete[](block);
    case 6: return ::operator delete(block, aligned, std::nothrow);
    default: return ::operator delete[](block, aligned);
    }
}

// A plugin that waits, while it is loaded and the dynamic linker holds its lock, for a thread that
// uses the operators; and one that catches what they throw.
#include <cstddef>
#include <new>
#include <thread>

static int *volatile sink;

static void work()
{
    int *block = sink = new int[100];
    block[99] = 1;
    delete[] block;
    block = sink = new (std::nothrow) int(1);
    delete block;
    struct alignas(256) Aligned { char bytes[256]; };
    Aligned *aligned = new Aligned[2];
    aligned[1].bytes[255] = 1;
    delete[] aligned;
}

static struct Joins {
    Joins()
    {
        std::thread thread(work);
        thread.join();
    }
} joins;

extern "C" int joins_catches(std::size_t size)
{
    try {
        sink = static_cast<int *>(::operator new[](size));
    } catch (const std::bad_alloc &) {
        return 1;
    }
    ::operator delete[](sink);
    return 0;
}

// A program with an allocator of its own, which is the process's: whatever is made of it follows,
// though the preloaded library has a function of that name.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <new>

#define CHECK(condition)                                                          \
    do {                                                                          \
        if (!(condition)) {                                                       \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);  \
            std::_Exit(1);                                                        \
        }                                                                         \
    } while (0)

alignas(16) static char pool[64 << 20];
static std::size_t used;
static long freed;

static bool is_mine(const void *block) { return block >= pool && block < pool + sizeof pool; }

extern "C" void *malloc(std::size_t size)
{
    std::size_t *header = reinterpret_cast<std::size_t *>(pool + used);
    if (size > sizeof pool - used - 64)
        return nullptr;
    used += 16 + (size + 15) / 16 * 16;
    header[0] = size;
    return header + 2;
}

extern "C" void free(void *block)
{
    CHECK(!block || is_mine(block));
    freed += block != nullptr;
}

extern "C" void *calloc(std::size_t count, std::size_t size) { return malloc(count * size); }

extern "C" void *realloc(void *block, std::size_t size)
{
    void *moved = malloc(size);
    if (block && moved) {
        CHECK(is_mine(block));
        std::size_t length = static_cast<std::size_t *>(block)[-2];
        std::memcpy(moved, block, length < size ? length : size);
    }
    return moved;
}

static void *volatile sink;

int main()
{
    char *text = static_cast<char *>(reallocarray(nullptr, 10, 10));
    CHECK(is_mine(text));
    std::strcpy(text, "kept");
    text = static_cast<char *>(reallocarray(text, 1000, 10));
    CHECK(is_mine(text) && std::strcmp(text, "kept") == 0);
    free(text);
    long before = freed;
    sink = ::operator new(100);
    CHECK(is_mine(sink));
    ::operator delete(sink, 100);
    sink = ::operator new[](100, std::nothrow);
    CHECK(is_mine(sink));
    ::operator delete[](sink);
    CHECK(freed == before + 2);
    // C23's, which older C libraries lack.
    void (*free_sized)(void *, std::size_t) =
        reinterpret_cast<void (*)(void *, std::size_t)>(dlsym(RTLD_DEFAULT, "free_sized"));
    before = freed;
    if (free_sized) {
        free_sized(malloc(10), 10);
        CHECK(freed == before + 1);
    }
    std::puts("own_malloc: passed");
}

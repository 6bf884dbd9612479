// A program that replaces two operators and loads a plugin whose constructor waits for a thread that
// uses the others: they must not wait for the loading.
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <new>
#include <unistd.h>

void *operator new(std::size_t size)
{
    void *block = std::malloc(size);
    if (!block)
        throw std::bad_alloc();
    return block;
}

void operator delete(void *block) noexcept { std::free(block); }

int main()
{
    alarm(60); // Ends what hangs.
    if (!dlopen("joins", RTLD_NOW | RTLD_LOCAL)) {
        std::fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    std::puts("waits: passed");
}

// Every operator new and delete, std::bad_alloc, and new handlers.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#define CHECK(condition)                                                          \
    do {                                                                          \
        if (!(condition)) {                                                       \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);  \
            std::_Exit(1);                                                        \
        }                                                                         \
    } while (0)

static volatile std::size_t too_large = static_cast<std::size_t>(PTRDIFF_MAX) - 4096;
// What is asked for is kept here: a pair of new and delete may be left out by the compiler.
static void *volatile sink;
static int asked;

static void give_up()
{
    if (++asked == 3)
        std::set_new_handler(nullptr);
}

struct Thrown {};
static void throw_own() { throw Thrown(); }

struct alignas(256) Aligned {
    char bytes[300];
};

template <class Body> static bool throws_bad_alloc(Body body)
{
    try {
        body();
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

static void operators()
{
    const std::align_val_t aligned{128};
    for (std::size_t size = 0; size < 100000; size += size / 2 + 1) {
        void *block = ::operator new(size);
        CHECK(block && reinterpret_cast<std::uintptr_t>(block) % 16 == 0);
        ::operator delete(block);
        ::operator delete(::operator new(size), size);
        ::operator delete[](::operator new[](size));
        ::operator delete[](::operator new[](size), size);
        ::operator delete(::operator new(size, std::nothrow), std::nothrow);
        ::operator delete[](::operator new[](size, std::nothrow), std::nothrow);
        block = ::operator new(size, aligned);
        CHECK(reinterpret_cast<std::uintptr_t>(block) % 128 == 0);
        ::operator delete(block, aligned);
        ::operator delete(::operator new(size, aligned), size, aligned);
        ::operator delete[](::operator new[](size, aligned), aligned);
        ::operator delete[](::operator new[](size, aligned), size, aligned);
        ::operator delete(::operator new(size, aligned, std::nothrow), aligned, std::nothrow);
        ::operator delete[](::operator new[](size, aligned, std::nothrow), aligned, std::nothrow);
    }
    ::operator delete(nullptr);
    Aligned *object = new Aligned;
    CHECK(reinterpret_cast<std::uintptr_t>(object) % 256 == 0);
    delete object;
}

static void refusals()
{
    const std::align_val_t aligned{128};
    CHECK(throws_bad_alloc([] { sink = ::operator new(too_large); }));
    CHECK(throws_bad_alloc([] { sink = ::operator new[](too_large); }));
    CHECK(throws_bad_alloc([=] { sink = ::operator new(too_large, aligned); }));
    CHECK(throws_bad_alloc([=] { sink = ::operator new[](too_large, aligned); }));
    CHECK(::operator new(too_large, std::nothrow) == nullptr);
    CHECK(::operator new[](too_large, std::nothrow) == nullptr);
    CHECK(::operator new(too_large, aligned, std::nothrow) == nullptr);
    CHECK(::operator new[](too_large, aligned, std::nothrow) == nullptr);
    std::set_new_handler(give_up);
    CHECK(throws_bad_alloc([] { sink = ::operator new(too_large); }) && asked == 3);
    std::set_new_handler(throw_own);
    bool is_own = false;
    try {
        sink = ::operator new(too_large);
    } catch (const Thrown &) {
        is_own = true;
    }
    CHECK(is_own);
    std::set_new_handler(nullptr);
    CHECK(throws_bad_alloc([] { sink = std::vector<char>(too_large).data(); }));
}

// Exceptions are allocated by the runtime; many at once, on several threads.
static void exceptions()
{
    std::vector<std::thread> threads;
    for (int number = 0; number < 4; number++)
        threads.emplace_back([number] {
            for (int round = 0; round < 2000; round++) {
                std::vector<std::string> texts(50, std::string(100, 'a'));
                try {
                    texts.at(1000 + round) = "there is none";
                    CHECK(!"thrown");
                } catch (const std::out_of_range &error) {
                    CHECK(error.what()[0] == 'v');
                    try {
                        throw std::runtime_error(std::string(number * 1000, 'b'));
                    } catch (const std::exception &inner) {
                        CHECK(std::string(inner.what()).size() == std::size_t(number) * 1000);
                    }
                }
                CHECK(texts[49].size() == 100);
            }
        });
    for (std::thread &thread : threads)
        thread.join();
}

int main()
{
    operators();
    refusals();
    exceptions();
    std::puts("operators: passed");
}

// A program that replaces two operators, as C++ lets it: the others are made of these. Their blocks
// have a header, so that no other free takes them.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <sstream>
#include <string>

#define CHECK(condition)                                                          \
    do {                                                                          \
        if (!(condition)) {                                                       \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);  \
            std::_Exit(1);                                                        \
        }                                                                         \
    } while (0)

static const std::uint64_t MARK = 0x6d61726b6d61726b;
static long made, ended;
static bool is_refusing;

void *operator new(std::size_t size)
{
    std::uint64_t *header = is_refusing ? nullptr : static_cast<std::uint64_t *>(std::malloc(size + 16));
    if (!header)
        throw std::bad_alloc();
    header[0] = MARK;
    made++;
    return header + 2;
}

void operator delete(void *block) noexcept
{
    if (!block)
        return;
    std::uint64_t *header = static_cast<std::uint64_t *>(block) - 2;
    CHECK(header[0] == MARK);
    header[0] = 0;
    ended++;
    std::free(header);
}

static void *volatile sink;

template <class Body> static void makes_one(Body body)
{
    long made_before = made, ended_before = ended;
    body();
    CHECK(made == made_before + 1 && ended == ended_before + 1);
}

int main()
{
    for (std::size_t size = 0; size < 100000; size += size / 2 + 1) {
        makes_one([=] { ::operator delete(sink = ::operator new(size)); });
        makes_one([=] { ::operator delete(sink = ::operator new(size), size); });
        makes_one([=] { ::operator delete[](sink = ::operator new[](size)); });
        makes_one([=] { ::operator delete[](sink = ::operator new[](size), size); });
        makes_one([=] { ::operator delete(sink = ::operator new(size, std::nothrow), std::nothrow); });
        makes_one([=] { ::operator delete[](sink = ::operator new[](size, std::nothrow), std::nothrow); });
        // Those for an alignment are apart: nobody replaced them.
        const std::align_val_t aligned{256};
        long before = made;
        sink = ::operator new(size, aligned);
        CHECK(reinterpret_cast<std::uintptr_t>(sink) % 256 == 0 && made == before);
        ::operator delete(sink, size, aligned);
        ::operator delete[](sink = ::operator new[](size, aligned, std::nothrow), aligned);
    }
    is_refusing = true;
    CHECK(::operator new(10, std::nothrow) == nullptr && ::operator new[](10, std::nothrow) == nullptr);
    is_refusing = false;
    // What the runtime's own code makes, the program ends.
    std::ostringstream text;
    for (int number = 0; number < 10000; number++)
        text << number;
    std::string *copy = new std::string(text.str());
    CHECK(copy->size() == 38890);
    delete copy;
    std::puts("replaced: passed");
}

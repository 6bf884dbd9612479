// What programs in C++ do all day: strings, maps and vectors of them grow and go, objects behind
// pointers are shared, exceptions fly. On two threads, each of which frees what the other made.
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "pattern.h"

// A book of a library: a name that mostly has its own block, and a row of readers.
struct Book {
    std::string title;
    std::vector<std::string> readers;
    explicit Book(std::uint64_t number) : title("the book number " + std::to_string(number)) {}
    virtual ~Book() = default;
    virtual std::size_t weight() const { return title.size() + readers.size(); }
};

// A kind of its own, of another size.
struct Volume : Book {
    std::map<std::uint32_t, std::string> pages;
    explicit Volume(std::uint64_t number) : Book(number) {}
    std::size_t weight() const override { return Book::weight() + pages.size(); }
};

// What is handed from thread to thread.
static std::mutex shelf_lock;
static std::vector<std::shared_ptr<Book>> shelf;

static std::shared_ptr<Book> exchange(std::shared_ptr<Book> book, std::uint64_t number)
{
    std::lock_guard<std::mutex> locked(shelf_lock);
    std::swap(book, shelf[number % shelf.size()]);
    return book;
}

static std::string page(std::uint64_t number)
{
    if (number % 16 == 0)
        throw std::out_of_range("there is no page " + std::to_string(number));
    return std::string(8 + number % 120, static_cast<char>('a' + number % 26));
}

static std::shared_ptr<Book> make(std::uint64_t &random)
{
    std::uint64_t number = next_random(&random);
    if (number % 4)
        return std::make_shared<Book>(number);
    std::shared_ptr<Volume> volume = std::make_shared<Volume>(number);
    for (int count = 0; count < 8; count++)
        try {
            std::uint64_t next = next_random(&random);
            volume->pages.emplace(static_cast<std::uint32_t>(next >> 40), page(next));
        } catch (const std::out_of_range &error) {
            volume->readers.emplace_back(error.what());
        }
    return volume;
}

static void work(std::uint64_t random, int rounds, std::uint64_t *checksum)
{
    std::unordered_map<std::string, std::shared_ptr<Book>> catalogue;
    std::vector<std::string> order;
    for (int round = 0; round < rounds; round++) {
        std::shared_ptr<Book> book = make(random);
        for (std::uint64_t readers = next_random(&random) % 5; readers > 0; readers--)
            book->readers.push_back("reader " + std::to_string(next_random(&random) % 1000000));
        order.push_back(book->title);
        catalogue[book->title] = book;
        *checksum += exchange(std::move(book), next_random(&random))->weight();
        if (order.size() == 5000) {
            // Some go, in another order than they came, and the row of names is made anew.
            std::vector<std::string> kept;
            for (std::string &title : order)
                if (next_random(&random) % 4)
                    catalogue.erase(title);
                else
                    kept.push_back(std::move(title));
            order = std::move(kept);
        }
    }
}

int main(int count, char **arguments)
{
    int rounds = count > 1 ? std::atoi(arguments[1]) : 400000;
    for (int number = 0; number < 1000; number++)
        shelf.push_back(std::make_shared<Book>(number));
    std::uint64_t sums[2] = {0, 0};
    std::thread other(work, 11, rounds, &sums[1]);
    work(5, rounds, &sums[0]);
    other.join();
    shelf.clear();
    return finish(sums[0] + sums[1]);
}

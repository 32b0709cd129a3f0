// printf on the device: the text comes out of this process's stdout, complete and in every format.
#include "check.h"

#include <algorithm>
#include <cstring>
#include <string>

__global__ void print_all(const char *text)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    printf("thread %d of %s: %5.2f %u %#x %c%% %lld\n", i, i % 2 ? "odd" : "even", i * 1.5, 4000000000u + i, i * 17,
           'a' + i % 26, -5000000000ll - i);
    if (i == 3)
        printf("just text\n");
    if (i == 4)
        printf("%s|%-6d|%06d|%+d|%e\n", text, 12, 34, 56, 0.5);
}

static std::vector<std::string> lines_of(const std::string &text)
{
    std::vector<std::string> lines;
    for (size_t start = 0; start < text.size();) {
        size_t end = std::min(text.find('\n', start), text.size());
        lines.push_back(text.substr(start, end - start));
        start = end + 1;
    }
    std::sort(lines.begin(), lines.end()); // the device promises no order between threads
    return lines;
}

static std::string expected_text(int threads)
{
    std::string text;
    char line[256];
    for (int i = 0; i < threads; i++) {
        snprintf(line, sizeof line, "thread %d of %s: %5.2f %u %#x %c%% %lld\n", i, i % 2 ? "odd" : "even", i * 1.5,
                 4000000000u + i, i * 17, 'a' + i % 26, -5000000000ll - i);
        text += line;
    }
    snprintf(line, sizeof line, "just text\n%s|%-6d|%06d|%+d|%e\n", "from memory", 12, 34, 56, 0.5);
    return text + line;
}

int main()
{
    constexpr int blocks = 3, block = 40;
    DeviceArray<char> text(std::vector<char>{'f', 'r', 'o', 'm', ' ', 'm', 'e', 'm', 'o', 'r', 'y', 0});

    fflush(stdout);
    FILE *capture = tmpfile();
    REQUIRE(capture != nullptr);
    int own_stdout = dup(1);
    REQUIRE(own_stdout >= 0 && dup2(fileno(capture), 1) == 1);
    print_all<<<blocks, block>>>(text.get());
    cudaError_t launched = cudaGetLastError();
    cudaError_t finished = cudaDeviceSynchronize();
    fflush(stdout);
    REQUIRE(dup2(own_stdout, 1) == 1);
    CHECK(launched);
    CHECK(finished);

    std::string printed;
    char buffer[4096];
    rewind(capture);
    for (size_t got; (got = fread(buffer, 1, sizeof buffer, capture)) > 0;)
        printed.append(buffer, got);
    std::vector<std::string> lines = lines_of(printed), expected = lines_of(expected_text(blocks * block));
    for (size_t i = 0; i < std::min(lines.size(), expected.size()); i++)
        if (lines[i] != expected[i])
            fail("sorted line %zu is '%s', expected '%s'", i, lines[i].c_str(), expected[i].c_str());
    if (lines.size() != expected.size())
        fail("%zu lines were printed, expected %zu", lines.size(), expected.size());
    return pass("%zu lines from the device", lines.size());
}

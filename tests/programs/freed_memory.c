// Memory that a process has freed, or left at its end, holds nothing of it when the next process gets it: fills nearly all of the device's
// memory with a pattern, and looks for that in another process. Prints how much of the memory was looked at.
// usage: freed_memory [MIB]   at most so much memory; default: nearly all
#include "driver.h"

#include <sys/wait.h>

#define PATTERN 0x5ec2e7a5u
#define BLOCK ((size_t)64 << 20)
// What is read of each block: pieces of it, at equal distances.
#define PIECE ((size_t)64 << 10)
#define PIECES 64
#define MAX_BLOCKS 4096
// Left for contexts, in blocks.
#define SPARE 8

static CUdeviceptr blocks[MAX_BLOCKS];

// Takes memory in blocks: at most `limit` of them, or nearly all that is free. How many there are.
static int take(int limit)
{
    size_t free, total;
    int count = 0;
    CHECK(cuMemGetInfo(&free, &total));
    long room = (long)(free / BLOCK) - SPARE;
    while (count < room && count < limit && cuMemAlloc(&blocks[count], BLOCK) == CUDA_SUCCESS)
        count++;
    REQUIRE(count > 0);
    return count;
}

static int fill(int limit, int frees)
{
    start();
    int count = take(limit);
    for (int i = 0; i < count; i++)
        CHECK(cuMemsetD32(blocks[i], PATTERN, BLOCK / 4));
    CHECK(cuCtxSynchronize());
    for (int i = 0; frees && i < count; i++)
        CHECK(cuMemFree(blocks[i]));
    return 0;
}

// Words with the pattern, and of another value than 0, in the pieces that are read.
static int look(int limit, const char *after)
{
    static uint32_t piece[PIECE / 4];
    size_t found = 0, other = 0;
    start();
    int count = take(limit);
    for (int i = 0; i < count; i++) {
        for (int j = 0; j < PIECES; j++) {
            CHECK(cuMemcpyDtoH(piece, blocks[i] + j * (BLOCK / PIECES), PIECE));
            for (size_t word = 0; word < PIECE / 4; word++) {
                found += piece[word] == PATTERN;
                other += piece[word] != PATTERN && piece[word] != 0;
            }
        }
    }
    printf("%s: %zu words of the other process, %zu others that are not 0, in %d MiB of %d\n", after, found, other,
           (int)(count * (PIECE * PIECES >> 20)), (int)(count * (BLOCK >> 20)));
    fflush(stdout);
    return found != 0;
}

static int run(int (*body)(int, int), int first, int second)
{
    int status = 0;
    fflush(stdout);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0)
        _exit(body(first, second));
    REQUIRE(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

static int look_after(int limit, int frees)
{
    return look(limit, frees ? "freed" : "left at its end");
}

int main(int argc, char **argv)
{
    int limit = argc > 1 ? (int)(atol(argv[1]) / (long)(BLOCK >> 20)) : MAX_BLOCKS;
    if (limit < 1 || limit > MAX_BLOCKS)
        limit = MAX_BLOCKS;
    for (int frees = 0; frees < 2; frees++) {
        REQUIRE(run(fill, limit, frees) == 0);
        REQUIRE(run(look_after, limit, frees) == 0);
    }
    printf("PASS " PROGRAM " nothing is left of another process\n");
    return 0;
}

// Matrix product in tiles through shared memory, with edges that don't fill a tile.
#include "check.h"

constexpr int TILE = 16;

__global__ void multiply(const float *a, const float *b, float *product, int rows, int inner, int columns)
{
    __shared__ float tile_a[TILE][TILE];
    __shared__ float tile_b[TILE][TILE + 1];
    int row = blockIdx.y * TILE + threadIdx.y;
    int column = blockIdx.x * TILE + threadIdx.x;
    float sum = 0;
    for (int start = 0; start < inner; start += TILE) {
        int k_a = start + threadIdx.x, k_b = start + threadIdx.y;
        tile_a[threadIdx.y][threadIdx.x] = row < rows && k_a < inner ? a[row * inner + k_a] : 0;
        tile_b[threadIdx.y][threadIdx.x] = k_b < inner && column < columns ? b[k_b * columns + column] : 0;
        __syncthreads();
        for (int k = 0; k < TILE; k++)
            sum += tile_a[threadIdx.y][k] * tile_b[k][threadIdx.x];
        __syncthreads();
    }
    if (row < rows && column < columns)
        product[row * columns + column] = sum;
}

int main(int argc, char **argv)
{
    int size = number_argument(argc, argv, 1, 100);
    int rows = size, inner = size + 5, columns = size - size / 4;
    std::vector<float> a((size_t)rows * inner), b((size_t)inner * columns);
    // Small whole numbers: every sum is exact in any order of adding.
    for (size_t i = 0; i < a.size(); i++)
        a[i] = (float)(int)(noise((uint32_t)i) % 15) - 7;
    for (size_t i = 0; i < b.size(); i++)
        b[i] = (float)(int)(noise(~(uint32_t)i) % 15) - 7;
    DeviceArray<float> device_a(a), device_b(b), device_product((size_t)rows * columns);
    dim3 grid((columns + TILE - 1) / TILE, (rows + TILE - 1) / TILE), block(TILE, TILE);
    multiply<<<grid, block>>>(device_a.get(), device_b.get(), device_product.get(), rows, inner, columns);
    CHECK(cudaGetLastError());
    std::vector<float> product = device_product.read();
    std::vector<float> expected((size_t)rows * columns);
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < inner; k++)
            for (int j = 0; j < columns; j++)
                expected[(size_t)i * columns + j] += a[(size_t)i * inner + k] * b[(size_t)k * columns + j];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) {
            size_t at = (size_t)i * columns + j;
            if (product[at] != expected[at])
                fail("element (%d, %d) is %g, expected %g", i, j, product[at], expected[at]);
        }
    return pass("%dx%d times %dx%d", rows, inner, inner, columns);
}

// The smallest whole program: two arrays to the device, one kernel, one array back.
#include "check.h"

__global__ void add(const float *a, const float *b, float *sum, int count)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        sum[i] = a[i] + b[i];
}

int main(int argc, char **argv)
{
    int count = number_argument(argc, argv, 1, 50000);
    std::vector<float> a(count), b(count);
    for (int i = 0; i < count; i++) {
        a[i] = (float)noise(i) / 65536.0f;
        b[i] = (float)noise(~i) / 4096.0f;
    }
    DeviceArray<float> device_a(a), device_b(b), device_sum(count);
    device_sum.zero();
    add<<<(count + 255) / 256, 256>>>(device_a.get(), device_b.get(), device_sum.get(), count);
    CHECK(cudaGetLastError());
    std::vector<float> sum = device_sum.read();
    for (int i = 0; i < count; i++)
        if (sum[i] != a[i] + b[i])
            fail("element %d is %g, expected %g", i, sum[i], a[i] + b[i]);
    return pass("%d elements", count);
}

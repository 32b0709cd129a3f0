/* The management library: versions, device, identity and memory, the same that the driver API reports. */
#include "nvml.h"

/* Declared here, as device_t is. */
struct memory {
    unsigned long long total, free, used;
};
struct pci {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
};

int main(void)
{
    unsigned count = 0;
    int cuda_version = 0, cuda_count = 0;
    char driver[96] = "", name[96] = "", uuid[96] = "", cuda_name[96] = "", cuda_bus_id[32] = "";
    struct memory memory = {0, 0, 0};
    struct pci pci;
    CUuuid cuda_uuid;
    CUdevice cuda_device;
    memset(&pci, 0, sizeof pci);
    load();
    NVML(1, "nvmlDeviceGetCount_v2", (unsigned *), &count); /* not initialised */
    NVML(0, "nvmlInit_v2", (void));
    NVML(0, "nvmlSystemGetDriverVersion", (char *, unsigned), driver, sizeof driver);
    NVML(0, "nvmlSystemGetCudaDriverVersion_v2", (int *), &cuda_version);
    NVML(0, "nvmlDeviceGetCount_v2", (unsigned *), &count);
    NVML(0, "nvmlDeviceGetHandleByIndex_v2", (unsigned, device_t *), 0, &device);
    NVML(2, "nvmlDeviceGetHandleByIndex_v2", (unsigned, device_t *), count, &device); /* invalid argument */
    NVML(0, "nvmlDeviceGetHandleByIndex_v2", (unsigned, device_t *), 0, &device);
    NVML(0, "nvmlDeviceGetName", (device_t, char *, unsigned), device, name, sizeof name);
    NVML(0, "nvmlDeviceGetUUID", (device_t, char *, unsigned), device, uuid, sizeof uuid);
    NVML(7, "nvmlDeviceGetUUID", (device_t, char *, unsigned), device, uuid, 4); /* insufficient size */
    NVML(0, "nvmlDeviceGetUUID", (device_t, char *, unsigned), device, uuid, sizeof uuid);
    NVML(0, "nvmlDeviceGetPciInfo_v3", (device_t, struct pci *), device, &pci);
    NVML(0, "nvmlDeviceGetMemoryInfo", (device_t, struct memory *), device, &memory);
    const char *error = ((const char *(*)(int))symbol("nvmlErrorString"))(2);
    if (error == NULL || error[0] == 0)
        FAIL("nvmlErrorString has no text for error 2");

    CHECK(cuInit(0));
    CHECK(cuDeviceGetCount(&cuda_count));
    CHECK(cuDeviceGet(&cuda_device, 0));
    CHECK(cuDeviceGetName(cuda_name, sizeof cuda_name, cuda_device));
    CHECK(cuDeviceGetUuid(&cuda_uuid, cuda_device));
    CHECK(cuDeviceGetPCIBusId(cuda_bus_id, sizeof cuda_bus_id, cuda_device));
    if (count < (unsigned)cuda_count)
        FAIL("%u devices, CUDA has %d", count, cuda_count);
    if (strcmp(name, cuda_name) != 0)
        FAIL("the name is '%s', CUDA says '%s'", name, cuda_name);
    char expected[64] = "GPU-";
    for (int i = 0; i < 16; i++)
        sprintf(expected + strlen(expected), "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                (unsigned char)cuda_uuid.bytes[i]);
    if (strcmp(uuid, expected) != 0)
        FAIL("the UUID is %s, CUDA says %s", uuid, expected);
    sprintf(expected, "%04x:%02x:%02x.0", pci.domain, pci.bus, pci.device);
    if (strcasecmp(cuda_bus_id, expected) != 0)
        FAIL("the PCI address is %s, CUDA says %s", expected, cuda_bus_id);
    if (memory.total == 0 || memory.free > memory.total || memory.used > memory.total)
        FAIL("memory: %llu total, %llu free, %llu used", memory.total, memory.free, memory.used);
    NVML(0, "nvmlShutdown", (void));
    NVML(1, "nvmlDeviceGetCount_v2", (unsigned *), &count);
    printf("PASS " PROGRAM " %s, %s, driver %s, CUDA %d\n", name, uuid, driver, cuda_version);
    return 0;
}

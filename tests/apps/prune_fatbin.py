#!/usr/bin/env python3
"""Zeroes the device code of a CUDA library that one GPU does not use, so that it packs small for the way to that GPU.

usage: prune_fatbin.py LIBRARY OUTPUT MAJOR_MINOR   (for example 90)
Sizes and offsets stay as they are. Of each fat binary, what stays is the machine code for that architecture if there is any, else the newest PTX
that the driver can compile for it: what the driver takes in any case.
"""

import struct
import sys

MAGIC = 0xBA55ED50
PTX = 1


def entries(data, start):
    """(kind, architecture, payload offset, payload size) of the fat binary at start, and its end."""
    _, _, header, size = struct.unpack_from("<IHHQ", data, start)
    at, end, found = start + header, start + header + size, []
    while at < end:
        kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", data, at)
        found.append((kind, struct.unpack_from("<I", data, at + 28)[0], at + entry_header, entry_size))
        at += entry_header + entry_size
    return found, end


def main():
    source, target, architecture = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with open(source, "rb") as file:
        data = bytearray(file.read())
    at, kept, zeroed, binaries = 0, 0, 0, 0
    magic = struct.pack("<IHH", MAGIC, 1, 16)
    while (at := data.find(magic, at)) >= 0:
        found, end = entries(data, at)
        exact = [e for e in found if e[0] != PTX and e[1] == architecture]
        usable = [e for e in found if e[0] == PTX and e[1] <= architecture]
        keep = exact or [max(usable, key=lambda e: e[1])] if exact or usable else []
        for entry in found:
            if entry in keep:
                kept += entry[3]
            else:
                data[entry[2]:entry[2] + entry[3]] = bytes(entry[3])
                zeroed += entry[3]
        binaries += 1
        at = end
    with open(target, "wb") as file:
        file.write(data)
    print(f"{binaries} fat binaries: {kept >> 20} MiB of device code kept, {zeroed >> 20} MiB zeroed")


if __name__ == "__main__":
    main()

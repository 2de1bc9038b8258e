#pragma once

#include <bit>
#include <cstdint>

namespace ps {

// Wire frames and files are little-endian and copied as they lie in memory.
static_assert(std::endian::native == std::endian::little);

// An embedding id after mapping: integers as their 64 bits, strings by their stable hash.
using Key = std::uint64_t;

// Numbers given by the coordinator when a table or dense tensor is defined; dense, from 0, never
// reused.
using TableId = std::uint32_t;
using TensorId = std::uint32_t;

// The unit of placement; 0 .. partition_count-1, partition_count a power of two <= 65,536.
using PartitionId = std::uint32_t;
using ServerId = std::uint32_t;

// Days since 1970-01-01 UTC.
using UnixDay = std::uint32_t;

}  // namespace ps

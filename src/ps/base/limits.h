#pragma once

#include <cstddef>
#include <cstdint>

// Every bound of the program that is not a user's setting; each has a unit in its name and a test
// at its edge.
namespace ps::limits {

inline constexpr std::size_t kPartitionCountMax = 65'536;
inline constexpr std::size_t kPartitionCountDefault = 4'096;
inline constexpr std::size_t kServersMax = 4'096;
inline constexpr std::size_t kTablesMax = 4'096;
inline constexpr std::size_t kTensorsMax = 65'536;
inline constexpr std::size_t kEmbeddingDimMax = 65'536;
inline constexpr std::size_t kTableNameCharsMax = 128;
inline constexpr std::size_t kTensorNameBytesMax = 1'024;

// A dense tensor is cut into chunks of at most this many floats (1 MiB).
inline constexpr std::size_t kTensorChunkFloats = 262'144;

// A frame's payload, compressed or not. The user's max_message_size may lower it, never raise it.
inline constexpr std::size_t kFramePayloadBytesMax = 256u << 20;
// Before a connection has proved that it knows the secret.
inline constexpr std::size_t kHandshakePayloadBytesMax = 4'096;
inline constexpr std::size_t kControlPayloadBytesMax = 64u << 20;
inline constexpr std::size_t kSectionsPerFrameMax = 65'536;

inline constexpr std::size_t kConnectionsPerServerMax = 4'096;
inline constexpr int kHandshakeTimeoutMs = 10'000;

// Push ledger: sequences of one stream that may be in flight at once, and streams a server
// remembers.
inline constexpr std::size_t kLedgerWindow = 1'024;
inline constexpr std::size_t kLedgerStreamsMax = 1'000'000;

}  // namespace ps::limits

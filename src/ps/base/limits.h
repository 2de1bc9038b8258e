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
// Memory for a payload grows with the bytes that arrived, from here by doubling.
inline constexpr std::size_t kPayloadFirstBytes = 1u << 20;
// Before a connection has proved that it knows the secret.
inline constexpr std::size_t kHandshakePayloadBytesMax = 4'096;
inline constexpr std::size_t kControlPayloadBytesMax = 64u << 20;
// Arrays and objects inside each other in a control message.
inline constexpr std::size_t kJsonDepthMax = 64;
inline constexpr std::size_t kSectionsPerFrameMax = 65'536;

inline constexpr std::size_t kConnectionsPerServerMax = 4'096;
// What a request to stop may leave to the requests under way.
inline constexpr double kGraceSecondsMax = 3'600.0;
inline constexpr int kHandshakeTimeoutMs = 10'000;
// Requests of one connection without an answer; the connection is not read on beyond.
inline constexpr std::int64_t kRequestsPerConnectionMax = 1'024;
// Requests being assembled or served, over all connections; more are told "busy".
inline constexpr std::uint64_t kRequestsPerServerMax = 65'536;
// Replies that wait for one connection's socket; the connection is not read on beyond.
inline constexpr std::size_t kUnsentBytesPerConnectionMax = 512u << 20;
// Memory shared with the peer of one Unix socket, and with all of them; rows beyond go through
// sockets.
inline constexpr std::size_t kSharedMemoryBytes = 16u << 20;
inline constexpr std::size_t kSharedMemoryBytesTotal = 1u << 30;
// A peer that is amid a request, or takes no replies, and moves no byte for so long is closed.
inline constexpr int kStallTimeoutMs = 30'000;

// Push ledger: sequences of one stream that may be in flight at once, and streams a server
// remembers.
inline constexpr std::size_t kLedgerWindow = 1'024;
inline constexpr std::size_t kLedgerStreamsMax = 1'000'000;

}  // namespace ps::limits

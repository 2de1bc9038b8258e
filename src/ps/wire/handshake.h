#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "ps/base/status.h"
#include "ps/base/types.h"

namespace ps::wire {

// Challenge and response by HMAC-SHA256, both ways, under the job's secret:
//   client  kHello      nonce_c
//   server  kChallenge  nonce_s, identity, HMAC(secret, "server" | nonce_c | nonce_s | identity)
//   client  kProof      HMAC(secret, "client" | nonce_c | nonce_s | identity)
//   server  kWelcome    (empty)
// Pure functions over bytes: no sockets, no clock. Comparison of digests is constant-time.
using Nonce = std::array<std::byte, 32>;
using Digest = std::array<std::byte, 32>;

// Who answers: server id (or kCoordinatorId) and the incarnation drawn at random at its start, so
// that a server that came back without its rows is not taken for the old one.
struct Identity {
  std::uint32_t server_id = 0;
  std::uint64_t incarnation = 0;

  bool operator==(const Identity&) const = default;
};
inline constexpr std::uint32_t kCoordinatorId = 0xffffffff;

inline constexpr std::size_t kSecretBytesMin = 16;

struct Hello {
  Nonce nonce;
};
struct Challenge {
  Nonce nonce;
  Identity identity;
  Digest proof;
};
struct Proof {
  Digest proof;
};

std::string EncodeHello(const Hello& hello);
std::string EncodeChallenge(const Challenge& challenge);
std::string EncodeProof(const Proof& proof);
Result<Hello> DecodeHello(std::span<const std::byte> payload);
Result<Challenge> DecodeChallenge(std::span<const std::byte> payload);
Result<Proof> DecodeProof(std::span<const std::byte> payload);

// 32 bytes from the operating system's generator.
Result<Nonce> RandomNonce();

Digest ServerProof(const std::string& secret, const Nonce& client, const Nonce& server,
                   const Identity& identity);
Digest ClientProof(const std::string& secret, const Nonce& client, const Nonce& server,
                   const Identity& identity);
bool DigestsEqual(const Digest& a, const Digest& b);

}  // namespace ps::wire

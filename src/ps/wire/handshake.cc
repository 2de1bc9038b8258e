#include "ps/wire/handshake.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "ps/wire/openssl.h"

namespace ps::wire {
namespace {

// Identity on the wire: u32 server_id, u32 zero, u64 incarnation.
constexpr std::size_t kIdentityBytes = 16;
constexpr std::size_t kHelloBytes = sizeof(Nonce);
constexpr std::size_t kChallengeBytes = sizeof(Nonce) + kIdentityBytes + sizeof(Digest);
constexpr std::size_t kProofBytes = sizeof(Digest);

void Append(std::string* out, std::span<const std::byte> bytes) {
  out->append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

void AppendIdentity(std::string* out, const Identity& identity) {
  std::array<std::byte, kIdentityBytes> bytes{};
  std::memcpy(bytes.data(), &identity.server_id, sizeof(identity.server_id));
  std::memcpy(bytes.data() + 8, &identity.incarnation, sizeof(identity.incarnation));
  Append(out, bytes);
}

Status CheckSize(const char* name, std::span<const std::byte> payload, std::size_t bytes) {
  if (payload.size() == bytes) return Status::Ok();
  return DataCorruption(std::string("handshake: ") + name + " of " +
                        std::to_string(payload.size()) + " bytes instead of " +
                        std::to_string(bytes));
}

bool FillRandom(std::span<std::byte> out) {
  while (!out.empty()) {
    ssize_t got = getrandom(out.data(), out.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    out = out.subspan(static_cast<std::size_t>(got));
  }
  return true;
}

Digest Hmac(const std::string& secret, const char* label, const Nonce& client, const Nonce& server,
            const Identity& identity) {
  StartOpenSsl();
  std::string message = label;
  Append(&message, client);
  Append(&message, server);
  AppendIdentity(&message, identity);

  Digest digest{};
  unsigned int digest_bytes = 0;
  const unsigned char* made =
      HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
           reinterpret_cast<const unsigned char*>(message.data()), message.size(),
           reinterpret_cast<unsigned char*>(digest.data()), &digest_bytes);
  // A digest that could not be made must equal no other, least of all one made by a stranger.
  if ((made == nullptr || digest_bytes != digest.size()) && !FillRandom(digest)) std::abort();
  return digest;
}

}  // namespace

std::string EncodeHello(const Hello& hello) {
  std::string payload;
  Append(&payload, hello.nonce);
  return payload;
}

std::string EncodeChallenge(const Challenge& challenge) {
  std::string payload;
  Append(&payload, challenge.nonce);
  AppendIdentity(&payload, challenge.identity);
  Append(&payload, challenge.proof);
  return payload;
}

std::string EncodeProof(const Proof& proof) {
  std::string payload;
  Append(&payload, proof.proof);
  return payload;
}

Result<Hello> DecodeHello(std::span<const std::byte> payload) {
  PS_RETURN_IF_ERROR(CheckSize("hello", payload, kHelloBytes));
  Hello hello;
  std::memcpy(hello.nonce.data(), payload.data(), sizeof(Nonce));
  return hello;
}

Result<Challenge> DecodeChallenge(std::span<const std::byte> payload) {
  PS_RETURN_IF_ERROR(CheckSize("challenge", payload, kChallengeBytes));
  Challenge challenge;
  const std::byte* in = payload.data();
  std::memcpy(challenge.nonce.data(), in, sizeof(Nonce));
  in += sizeof(Nonce);
  std::memcpy(&challenge.identity.server_id, in, sizeof(std::uint32_t));
  std::uint32_t zero = 0;
  std::memcpy(&zero, in + 4, sizeof(zero));
  if (zero != 0) return DataCorruption("handshake: a challenge's identity has bytes of no meaning");
  std::memcpy(&challenge.identity.incarnation, in + 8, sizeof(std::uint64_t));
  in += kIdentityBytes;
  std::memcpy(challenge.proof.data(), in, sizeof(Digest));
  return challenge;
}

Result<Proof> DecodeProof(std::span<const std::byte> payload) {
  PS_RETURN_IF_ERROR(CheckSize("proof", payload, kProofBytes));
  Proof proof;
  std::memcpy(proof.proof.data(), payload.data(), sizeof(Digest));
  return proof;
}

Result<Nonce> RandomNonce() {
  Nonce nonce;
  if (!FillRandom(nonce)) {
    return Internal(std::string("the operating system gives no random bytes: ") +
                    std::strerror(errno));
  }
  return nonce;
}

Digest ServerProof(const std::string& secret, const Nonce& client, const Nonce& server,
                   const Identity& identity) {
  return Hmac(secret, "server", client, server, identity);
}

Digest ClientProof(const std::string& secret, const Nonce& client, const Nonce& server,
                   const Identity& identity) {
  return Hmac(secret, "client", client, server, identity);
}

bool DigestsEqual(const Digest& a, const Digest& b) {
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace ps::wire

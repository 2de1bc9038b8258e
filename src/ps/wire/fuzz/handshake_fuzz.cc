// The three payloads of the handshake from any bytes: what is accepted encodes to the same bytes.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "ps/wire/handshake.h"

namespace {

void RequireSame(const std::string& encoded, std::span<const std::byte> payload) {
  bool same = encoded.size() == payload.size() &&
              (payload.empty() || std::memcmp(encoded.data(), payload.data(), payload.size()) == 0);
  if (!same) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  using namespace ps::wire;
  auto payload = std::as_bytes(std::span(data, bytes));
  if (auto hello = DecodeHello(payload); hello.ok()) RequireSame(EncodeHello(*hello), payload);
  if (auto challenge = DecodeChallenge(payload); challenge.ok()) {
    RequireSame(EncodeChallenge(*challenge), payload);
    Digest proof =
        ServerProof("a secret of 16 b", challenge->nonce, challenge->nonce, challenge->identity);
    if (!DigestsEqual(proof, proof)) std::abort();
  }
  if (auto proof = DecodeProof(payload); proof.ok()) RequireSame(EncodeProof(*proof), payload);
  return 0;
}

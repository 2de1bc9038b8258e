#include "ps/wire/handshake.h"

#include <gtest/gtest.h>

#include <cstring>

namespace ps::wire {
namespace {

Nonce Filled(int value) {
  Nonce nonce;
  nonce.fill(static_cast<std::byte>(value));
  return nonce;
}

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string Hex(const Digest& digest) {
  std::string hex;
  for (std::byte b : digest) {
    char text[3];
    std::snprintf(text, sizeof(text), "%02x", static_cast<unsigned>(b));
    hex += text;
  }
  return hex;
}

const std::string kSecret = "0123456789abcdef";
const Identity kIdentity{7, 0x1122334455667788ull};

TEST(Handshake, MessagesSurviveTheWire) {
  auto hello = DecodeHello(Bytes(EncodeHello({Filled(3)})));
  ASSERT_TRUE(hello.ok());
  EXPECT_EQ(hello->nonce, Filled(3));

  Challenge sent{Filled(4), kIdentity, Filled(5)};
  auto challenge = DecodeChallenge(Bytes(EncodeChallenge(sent)));
  ASSERT_TRUE(challenge.ok());
  EXPECT_EQ(challenge->nonce, sent.nonce);
  EXPECT_EQ(challenge->identity, sent.identity);
  EXPECT_EQ(challenge->proof, sent.proof);

  auto proof = DecodeProof(Bytes(EncodeProof({Filled(6)})));
  ASSERT_TRUE(proof.ok());
  EXPECT_EQ(proof->proof, Filled(6));
}

TEST(Handshake, AnyOtherSizeIsRefused) {
  for (std::size_t bytes = 0; bytes < 200; ++bytes) {
    std::string text(bytes, '\0');
    EXPECT_EQ(DecodeHello(Bytes(text)).ok(), bytes == 32) << bytes;
    EXPECT_EQ(DecodeChallenge(Bytes(text)).ok(), bytes == 80) << bytes;
    EXPECT_EQ(DecodeProof(Bytes(text)).ok(), bytes == 32) << bytes;
  }
}

TEST(Handshake, ProofsAreThoseOfTheDocument) {
  // python: hmac.new(b"0123456789abcdef", b"server" + bytes([1]*32) + bytes([2]*32)
  //         + struct.pack("<IIQ", 7, 0, 0x1122334455667788), "sha256").hexdigest()
  EXPECT_EQ(Hex(ServerProof(kSecret, Filled(1), Filled(2), kIdentity)),
            "796d1bb7ef17bea3aa2e4d88dbf63cb3888f93d40a2fe97e364ca189f5f96516");
  EXPECT_EQ(Hex(ClientProof(kSecret, Filled(1), Filled(2), kIdentity)),
            "7fac36e952b412bb18f1c3a27267fd6b9ebbb0807435aa4581570607895a4e54");
}

TEST(Handshake, AProofDependsOnEverythingItIsMadeOf) {
  Digest proof = ServerProof(kSecret, Filled(1), Filled(2), kIdentity);
  EXPECT_TRUE(DigestsEqual(proof, ServerProof(kSecret, Filled(1), Filled(2), kIdentity)));
  EXPECT_FALSE(DigestsEqual(proof, ServerProof(kSecret + "0", Filled(1), Filled(2), kIdentity)));
  EXPECT_FALSE(DigestsEqual(proof, ServerProof(kSecret, Filled(9), Filled(2), kIdentity)));
  EXPECT_FALSE(DigestsEqual(proof, ServerProof(kSecret, Filled(1), Filled(9), kIdentity)));
  EXPECT_FALSE(DigestsEqual(proof, ServerProof(kSecret, Filled(2), Filled(1), kIdentity)));
  Identity other = kIdentity;
  other.server_id = 8;
  EXPECT_FALSE(DigestsEqual(proof, ServerProof(kSecret, Filled(1), Filled(2), other)));
  other = kIdentity;
  other.incarnation += 1;
  EXPECT_FALSE(DigestsEqual(proof, ServerProof(kSecret, Filled(1), Filled(2), other)));
  EXPECT_FALSE(DigestsEqual(proof, ClientProof(kSecret, Filled(1), Filled(2), kIdentity)))
      << "a server's proof sent back would pass for a client's";
}

TEST(Handshake, NoncesDoNotRepeat) {
  auto a = RandomNonce();
  auto b = RandomNonce();
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_NE(*a, *b);
}

// Found by fuzzing: they are not under the proof either.
TEST(Handshake, ChallengeWithBytesOfNoMeaningIsCorruption) {
  std::string payload = EncodeChallenge({});
  ASSERT_TRUE(DecodeChallenge(std::as_bytes(std::span(payload.data(), payload.size()))).ok());
  payload[36] = 1;
  EXPECT_EQ(
      DecodeChallenge(std::as_bytes(std::span(payload.data(), payload.size()))).status().code(),
      StatusCode::kDataCorruption);
}

}  // namespace
}  // namespace ps::wire

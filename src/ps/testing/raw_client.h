#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ps/base/status.h"
#include "ps/base/types.h"
#include "ps/net/client_connection.h"
#include "ps/wire/messages.h"

namespace ps::testing {

// The payload of one kPull or kPush frame, section by section.
class Sections {
 public:
  Sections& PullRows(TableId table, std::uint32_t dim, const std::vector<Key>& keys,
                     bool create = true);
  Sections& PushRows(TableId table, std::uint32_t dim, const std::vector<Key>& keys,
                     const std::vector<float>& grads, float rate_scale = 1.0f);
  Sections& PullChunk(TensorId tensor, std::uint32_t chunk, std::uint64_t version = 0);
  Sections& PushChunk(TensorId tensor, std::uint32_t chunk, const std::vector<float>& grads);
  Sections& AssignChunk(TensorId tensor, std::uint32_t chunk, const std::vector<float>& values,
                        bool only_if_absent = false);
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  void Add(const wire::SectionHead& head, const std::vector<Key>& keys,
           const std::vector<float>& floats);
  std::vector<std::byte> bytes_;
};

// A section of a pull's reply.
struct PulledSection {
  wire::SectionHead head;
  std::vector<float> values;
};

// One connection on which a test sends frames made by hand.
class RawClient {
 public:
  static Result<std::unique_ptr<RawClient>> Connect(const net::Endpoint& endpoint,
                                                    const std::string& secret,
                                                    net::Transport transport,
                                                    std::uint32_t server_id = 0);

  net::ClientConnection& connection() { return *connection_; }

  // Sends a request of one or more frames; returns its number.
  Result<std::uint64_t> Send(wire::MessageType type, const std::vector<Sections>& frames,
                             std::uint64_t stream = 0, std::uint64_t sequence = 0);
  // Reads all parts of a pull's reply: the sections of all frames, in the request's order.
  Result<std::vector<PulledSection>> ReadPull(std::uint64_t request_id, std::size_t parts);
  Status ReadPush(std::uint64_t request_id);

  Result<std::vector<PulledSection>> Pull(const std::vector<Sections>& frames);
  // The values of one table's rows.
  Result<std::vector<float>> PullRows(TableId table, std::uint32_t dim,
                                      const std::vector<Key>& keys, bool create = true);
  Status Push(std::uint64_t stream, std::uint64_t sequence, const std::vector<Sections>& frames);
  Result<std::string> Control(const std::string& json);
  // A control request that takes effect once per number.
  Result<std::string> ControlOnce(std::uint64_t stream, std::uint64_t sequence,
                                  const std::string& json);

 private:
  std::unique_ptr<net::ClientConnection> connection_;
};

}  // namespace ps::testing

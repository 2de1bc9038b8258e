#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ps/arrow/c_data.h"
#include "ps/base/status.h"

namespace ps::arrow {

// A column, or a record ("+s", whose children are the columns). `format` as the C data interface
// writes types. Nothing is nullable.
struct Field {
  std::string name;
  std::string format;
  std::vector<Field> children;
};

// An array, or a record batch: buffers in the order of its format, the first one (validity) null.
struct Array {
  std::int64_t length = 0;
  std::vector<const void*> buffers;
  std::vector<Array> children;
};

// A record batch and what keeps its memory.
struct Batch {
  Array array;
  std::shared_ptr<const void> memory;
};

// Where the batches of a stream come from. One thread at a time.
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  virtual Field Schema() const = 0;
  // The next batch; none at the end. May block.
  virtual Result<std::optional<Batch>> Next() = 0;
};

// Each hands out a structure that owns what it needs; the taker calls its release, from any thread.
void ExportSchema(const Field& field, ArrowSchema* out);
void ExportBatch(const Batch& batch, ArrowArray* out);
void ExportStream(std::unique_ptr<BatchSource> source, ArrowArrayStream* out);

}  // namespace ps::arrow

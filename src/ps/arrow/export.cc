#include "ps/arrow/export.h"

#include <cerrno>
#include <new>
#include <utility>

namespace ps::arrow {
namespace {

// A structure's private data. Children are released with their parent unless they were moved out
// of it, which clears their `release`.
template <typename Struct>
struct Held {
  std::vector<Struct> children;
  std::vector<Struct*> child_pointers;

  void Link(Struct* out) {
    for (Struct& child : children) child_pointers.push_back(&child);
    out->n_children = static_cast<std::int64_t>(children.size());
    out->children = child_pointers.data();
  }
  ~Held() {
    for (Struct& child : children) {
      if (child.release != nullptr) child.release(&child);
    }
  }
};

struct HeldSchema : Held<ArrowSchema> {
  std::string name;
  std::string format;
};

struct HeldArray : Held<ArrowArray> {
  std::vector<const void*> buffers;
  std::shared_ptr<const void> memory;
};

template <typename Struct, typename HeldStruct>
void Release(Struct* released) {
  delete static_cast<HeldStruct*>(released->private_data);
  released->release = nullptr;
}

void ExportArray(const Array& array, const std::shared_ptr<const void>& memory, ArrowArray* out) {
  auto held = std::make_unique<HeldArray>();
  held->buffers = array.buffers;
  held->memory = memory;
  held->children.resize(array.children.size());
  for (std::size_t i = 0; i < array.children.size(); ++i) {
    ExportArray(array.children[i], memory, &held->children[i]);
  }
  *out = {};
  out->length = array.length;
  out->n_buffers = static_cast<std::int64_t>(held->buffers.size());
  out->buffers = held->buffers.data();
  held->Link(out);
  out->release = &Release<ArrowArray, HeldArray>;
  out->private_data = held.release();
}

struct HeldStream {
  std::unique_ptr<BatchSource> source;
  std::string error;
};

HeldStream& Of(ArrowArrayStream* stream) { return *static_cast<HeldStream*>(stream->private_data); }

int GetSchema(ArrowArrayStream* stream, ArrowSchema* out) {
  ExportSchema(Of(stream).source->Schema(), out);
  return 0;
}

int GetNext(ArrowArrayStream* stream, ArrowArray* out) {
  HeldStream& held = Of(stream);
  try {
    Result<std::optional<Batch>> batch = held.source->Next();
    if (!batch.ok()) {
      held.error = batch.status().message();
      return EIO;
    }
    *out = {};  // released: the end
    if (batch->has_value()) ExportBatch(**batch, out);
    return 0;
  } catch (const std::bad_alloc&) {  // must not pass through C
    held.error = "out of memory";
    return ENOMEM;
  }
}

const char* GetLastError(ArrowArrayStream* stream) { return Of(stream).error.c_str(); }

}  // namespace

void ExportSchema(const Field& field, ArrowSchema* out) {
  auto held = std::make_unique<HeldSchema>();
  held->name = field.name;
  held->format = field.format;
  held->children.resize(field.children.size());
  for (std::size_t i = 0; i < field.children.size(); ++i) {
    ExportSchema(field.children[i], &held->children[i]);
  }
  *out = {};
  out->format = held->format.c_str();
  out->name = held->name.c_str();
  held->Link(out);
  out->release = &Release<ArrowSchema, HeldSchema>;
  out->private_data = held.release();
}

void ExportBatch(const Batch& batch, ArrowArray* out) {
  ExportArray(batch.array, batch.memory, out);
}

void ExportStream(std::unique_ptr<BatchSource> source, ArrowArrayStream* out) {
  *out = {};
  out->get_schema = &GetSchema;
  out->get_next = &GetNext;
  out->get_last_error = &GetLastError;
  out->release = &Release<ArrowArrayStream, HeldStream>;
  out->private_data = new HeldStream{std::move(source), ""};
}

}  // namespace ps::arrow

#include "ps/arrow/rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <utility>

#include "ps/base/hash.h"

namespace ps::arrow {
namespace {

using store::RowBlock;
using testing::HasSubstr;

constexpr std::uint32_t kDim = 3;

std::unique_ptr<store::EmbeddingStore> MakeStore(store::RowBudget* budget, int rows) {
  store::TableSpec spec{"item", kDim, {"adam", {}}, {InitKind::kNormal, 0.1f}, 7};
  auto store = store::EmbeddingStore::Create(spec, /*partition_bits=*/0, budget, &Clock::System());
  std::vector<Key> keys(rows);
  std::vector<float> grads(rows * kDim, 0.5f);
  for (int i = 0; i < rows; ++i) keys[i] = 100 + i;
  std::size_t reserved = rows;
  EXPECT_TRUE(budget->TryReserve(rows));
  (*store)->Apply(keys, nullptr, grads.data(), 1.0f, &reserved);
  return std::move(store).value();
}

// Hands out batches that it was given, then ends or fails.
class Given final : public BatchSource {
 public:
  Given(Field schema, std::vector<Batch> batches, Status end = Status::Ok())
      : schema_(std::move(schema)), batches_(std::move(batches)), end_(std::move(end)) {}
  Field Schema() const override { return schema_; }
  Result<std::optional<Batch>> Next() override {
    if (next_ < batches_.size()) return std::optional(std::move(batches_[next_++]));
    if (!end_.ok()) return end_;
    return std::optional<Batch>();
  }

 private:
  const Field schema_;
  std::vector<Batch> batches_;
  const Status end_;
  std::size_t next_ = 0;
};

class RowsTest : public testing::Test {
 protected:
  void SetUp() override {
    store_ = MakeStore(&budget_, 5);
    shape_ = store::RowShape::Of(*store_, true);
    block_ = store::CopyPartition(*store_, 0, shape_, pool_);
  }
  ArrowArrayStream Stream(Field schema, std::vector<Batch> batches, Status end = Status::Ok()) {
    ArrowArrayStream stream;
    ExportStream(std::make_unique<Given>(std::move(schema), std::move(batches), std::move(end)),
                 &stream);
    return stream;
  }

  store::RowBudget budget_{0};
  std::unique_ptr<store::EmbeddingStore> store_;
  std::shared_ptr<store::BlockPool> pool_ = std::make_shared<store::BlockPool>(1 << 20);
  store::RowShape shape_;
  std::shared_ptr<const RowBlock> block_;
};

TEST_F(RowsTest, RowsLeaveAndEnterUnchanged) {
  ArrowArrayStream stream = Stream(RowsSchema(shape_), {RowsBatch(block_), RowsBatch(block_)});
  auto reader = BatchReader::Open("table 'item'", &stream, RowsColumns(shape_));
  ASSERT_TRUE(reader.ok()) << reader.status().ToString();
  EXPECT_EQ(stream.release, nullptr);  // taken over
  for (int batch = 0; batch < 2; ++batch) {
    auto more = reader->Next();
    ASSERT_TRUE(more.ok() && *more);
    ASSERT_EQ(reader->rows(), 5);
    std::size_t row = 0;
    store_->VisitPartition(0, [&](const store::RowHeader& header, const float* values,
                                  const float* state) {
      EXPECT_EQ(reader->Values<Key>(kRowsKey)[row], header.key);
      EXPECT_EQ(reader->Values<float>(kRowsCount)[row], header.count);
      EXPECT_EQ(reader->Values<UnixDay>(kRowsLastDay)[row], header.last_day);
      EXPECT_EQ(std::memcmp(reader->Values<float>(kRowsVector) + row * kDim, values, kDim * 4), 0);
      for (std::size_t i = 0; i < shape_.states.size(); ++i) {
        const std::size_t floats = shape_.states[i].floats;
        EXPECT_EQ(std::memcmp(reader->Values<float>(kRowsFirstState + i) + row * floats, state,
                              floats * 4),
                  0);
        state += floats;
      }
      ++row;
    });
  }
  EXPECT_FALSE(*reader->Next());
}

TEST_F(RowsTest, ABatchKeepsItsMemoryUntilItIsReleased) {
  std::weak_ptr<const RowBlock> memory = block_;
  ArrowArray batch;
  ExportBatch(RowsBatch(std::move(block_)), &batch);
  EXPECT_FALSE(memory.expired());
  // A consumer may move a column out and release it later than its batch.
  auto column = Owned<ArrowArray>::Take(batch.children[0]);
  batch.release(&batch);
  EXPECT_EQ(batch.release, nullptr);
  EXPECT_FALSE(memory.expired());
  EXPECT_EQ(static_cast<const Key*>(column->buffers[1])[0], Key{100});
  column = {};
  EXPECT_TRUE(memory.expired());
}

TEST_F(RowsTest, OffsetsOfSlicesAreHonoured) {
  Batch slice = RowsBatch(block_);
  ArrowArray array;
  ExportBatch(std::move(slice), &array);
  for (std::int64_t i = 0; i < array.n_children; ++i) {
    array.children[i]->offset = 2;
    array.children[i]->length = 3;
  }
  array.length = 3;

  struct One final : BatchSource {
    Field schema;
    Field Schema() const override { return schema; }
    Result<std::optional<Batch>> Next() override { return std::optional<Batch>(); }
  };
  auto source = std::make_unique<One>();
  source->schema = RowsSchema(shape_);
  ArrowArrayStream stream;
  ExportStream(std::move(source), &stream);
  static ArrowArray* given;
  given = &array;
  stream.get_next = [](ArrowArrayStream*, ArrowArray* out) {
    *out = std::exchange(*given, ArrowArray{});
    return 0;
  };
  auto reader = BatchReader::Open("table 'item'", &stream, RowsColumns(shape_));
  ASSERT_TRUE(reader.ok());
  ASSERT_TRUE(*reader->Next());
  const float* vectors = reinterpret_cast<const float*>(block_->column(RowBlock::kVector));
  EXPECT_EQ(reader->Values<Key>(kRowsKey)[0], Key{102});
  EXPECT_EQ(reader->Values<float>(kRowsVector)[0], vectors[2 * kDim]);
  const float* state = reinterpret_cast<const float*>(block_->column(RowBlock::kFirstState));
  EXPECT_EQ(reader->Values<float>(kRowsFirstState)[0], state[2 * kDim]);
  EXPECT_FALSE(*reader->Next());
}

TEST_F(RowsTest, AStreamOfAnotherShapeIsRefusedByColumn) {
  store::RowShape wider = shape_;
  wider.dim = kDim + 1;
  ArrowArrayStream stream = Stream(RowsSchema(shape_), {});
  auto reader = BatchReader::Open("table 'item'", &stream, RowsColumns(wider));
  ASSERT_FALSE(reader.ok());
  EXPECT_EQ(reader.status().code(), StatusCode::kDataCorruption);
  EXPECT_THAT(reader.status().message(), HasSubstr("table 'item': column 'vector'"));

  store::RowShape without = shape_;
  without.states.clear();
  stream = Stream(RowsSchema(without), {});
  reader = BatchReader::Open("table 'item'", &stream, RowsColumns(shape_));
  ASSERT_FALSE(reader.ok());
  EXPECT_THAT(reader.status().message(), HasSubstr("is missing"));
}

TEST_F(RowsTest, AnErrorOfTheSourceArrivesWithItsText) {
  ArrowArrayStream stream = Stream(RowsSchema(shape_), {RowsBatch(block_)},
                                   DataCorruption("part-3.parquet: bad checksum"));
  auto reader = BatchReader::Open("table 'item'", &stream, RowsColumns(shape_));
  ASSERT_TRUE(*reader->Next());
  Result<bool> more = reader->Next();
  ASSERT_FALSE(more.ok());
  EXPECT_EQ(more.status().code(), StatusCode::kStorage);
  EXPECT_THAT(more.status().message(), HasSubstr("part-3.parquet: bad checksum"));
}

TEST_F(RowsTest, SmallBlocksBecomeOne) {
  std::vector<std::unique_ptr<RowBlock>> blocks;
  for (int i = 0; i < 3; ++i) blocks.push_back(store::CopyPartition(*store_, 0, shape_, pool_));
  auto all = store::Concatenate(shape_, blocks, pool_);
  ASSERT_EQ(all->rows(), 15u);
  for (std::size_t i = 0; i < all->columns(); ++i) {
    const std::size_t bytes = 5 * all->width(i);
    for (int part = 0; part < 3; ++part) {
      EXPECT_EQ(std::memcmp(all->column(i) + part * bytes, block_->column(i), bytes), 0);
    }
  }
}

}  // namespace
}  // namespace ps::arrow

// JSON of a run folder, which may have come from anyone: bounded in size, depth and range, each key once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace ptq_export {

class Json {
 public:
  struct Member;
  using Array = std::vector<Json>;
  using Object = std::vector<Member>;  // in the order of the file
  using Value = std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, Array, Object>;

  static constexpr std::size_t kMaxBytes = std::size_t{1} << 25;
  static constexpr int kMaxDepth = 100;

  Json() = default;
  explicit Json(Value value) : value_(std::move(value)) {}
  // InputError: not JSON of finite numbers and 64-bit integers; `where` names the text.
  static Json parse(std::string_view text, std::string const& where);
  // InputError: absent, no regular file, larger than kMaxBytes, or no JSON object.
  static Json read(std::filesystem::path const& file);

  // nullptr where it is of another kind.
  template <class Kind>
  [[nodiscard]] Kind const* get_if() const noexcept {
    return std::get_if<Kind>(&value_);
  }
  [[nodiscard]] bool is_null() const noexcept { return std::holds_alternative<std::nullptr_t>(value_); }
  // The member of an object; nullptr where there is none, or this is no object.
  [[nodiscard]] Json const* find(std::string_view name) const noexcept;
  // For a message: `'text'`, `3`, `an object`.
  [[nodiscard]] std::string shown() const;

 private:
  Value value_;
};

struct Json::Member {
  std::string name;
  Json value;
};

// Members of a JSON object, held to what they must be: InputError names the file and the field.
class Fields {
 public:
  Fields(Json const& object, std::string file, std::string path = "");

  [[nodiscard]] Json const& any(std::string_view name) const;
  [[nodiscard]] Fields object(std::string_view name) const;
  [[nodiscard]] std::string const& text(std::string_view name) const;
  [[nodiscard]] Json::Array const& list(std::string_view name) const;
  [[nodiscard]] bool flag(std::string_view name) const;
  [[nodiscard]] double number(std::string_view name, double low, double high) const;
  [[nodiscard]] std::int64_t whole(std::string_view name, std::int64_t low, std::int64_t high) const;
  [[nodiscard]] bool has(std::string_view name) const noexcept { return object_->find(name) != nullptr; }
  [[nodiscard]] Json const& json() const noexcept { return *object_; }
  [[nodiscard]] std::string const& file() const noexcept { return file_; }
  [[nodiscard]] std::string place(std::string_view name) const;
  // Throws: the member `name` is not `wanted`.
  [[noreturn]] void refuse(std::string_view name, std::string const& wanted) const;

 private:
  Json const* object_;
  std::string file_, path_;
};

}  // namespace ptq_export

#include <sstream>

#include "ptq_export/error.h"
#include "ptq_export/json.h"
#include "utf8.h"

namespace ptq_export {

namespace {

std::string range(double low, double high) {
  std::ostringstream text;
  text << low << ".." << high;
  return text.str();
}

}  // namespace

Fields::Fields(Json const& object, std::string file, std::string path)
    : object_(&object), file_(std::move(file)), path_(std::move(path)) {
  if (object.get_if<Json::Object>() == nullptr)
    throw InputError(file_ + ": " + (path_.empty() ? "it" : path_) + " is " + object.shown() + ", not an object",
                     "copy the folder again, or make the run again in a new one");
}

std::string Fields::place(std::string_view name) const {
  return (path_.empty() ? "" : path_ + ".") + shortened(name, 80);
}

void Fields::refuse(std::string_view name, std::string const& wanted) const {
  throw InputError(file_ + ": " + place(name) + " is " + any(name).shown() + ", not " + wanted,
                   "copy the folder again, or make the run again in a new one");
}

Json const& Fields::any(std::string_view name) const {
  Json const* found = object_->find(name);
  if (found == nullptr)
    throw InputError(file_ + ": " + place(name) + " is absent",
                     "copy the folder again, or make the run again in a new one");
  return *found;
}

Fields Fields::object(std::string_view name) const { return {any(name), file_, place(name)}; }

std::string const& Fields::text(std::string_view name) const {
  auto const* found = any(name).get_if<std::string>();
  if (found == nullptr) refuse(name, "text");
  return *found;
}

Json::Array const& Fields::list(std::string_view name) const {
  auto const* found = any(name).get_if<Json::Array>();
  if (found == nullptr) refuse(name, "a list");
  return *found;
}

bool Fields::flag(std::string_view name) const {
  auto const* found = any(name).get_if<bool>();
  if (found == nullptr) refuse(name, "true or false");
  return *found;
}

double Fields::number(std::string_view name, double low, double high) const {
  Json const& value = any(name);
  auto const* whole = value.get_if<std::int64_t>();
  auto const* real = value.get_if<double>();
  if (whole == nullptr && real == nullptr) refuse(name, "a number of " + range(low, high));
  double const found = real != nullptr ? *real : static_cast<double>(*whole);
  if (!(found >= low && found <= high)) refuse(name, "a number of " + range(low, high));
  return found;
}

std::int64_t Fields::whole(std::string_view name, std::int64_t low, std::int64_t high) const {
  auto const* found = any(name).get_if<std::int64_t>();
  if (found == nullptr || *found < low || *found > high)
    refuse(name, "an integer of " + std::to_string(low) + ".." + std::to_string(high));
  return *found;
}

}  // namespace ptq_export

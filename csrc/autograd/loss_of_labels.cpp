// soft_cross_entropy as Python calls it most: hard labels, no weights. Straight to the dispatcher: matching the schema's
// fifteen arguments from Python, and checking them there, takes longer than a small loss and its gradient.
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include "common.h"

namespace regfast {
namespace {

using Loss = at::Tensor(const at::Tensor&, REGFAST_TARGET_PARAMETERS, bool, int64_t);

// The place of a str among `names`, -1 if it is none of them.
int64_t place(PyObject* value, std::initializer_list<const char*> names) {
  if (!PyUnicode_CheckExact(value)) return -1;
  int64_t at = 0;
  for (const char* name : names) {
    if (PyUnicode_CompareWithASCIIString(value, name) == 0) return at;
    at++;
  }
  return -1;
}

}  // namespace

// loss_of_labels(logits, labels, smoothing, ignore_index, reduction, inplace, backward): None for whatever is not plain.
PyObject* loss_of_labels(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 7, "loss_of_labels takes 7 arguments, got ", count);
  if (!THPVariable_CheckExact(args[0]) || !THPVariable_CheckExact(args[1])) Py_RETURN_NONE;
  const at::Tensor &logits = THPVariable_Unpack(args[0]), &labels = THPVariable_Unpack(args[1]);
  if (logits.dim() != 2 || logits.layout() != at::kStrided || logits.size(1) < 1 || labels.dim() != 1 ||
      labels.layout() != at::kStrided || labels.scalar_type() != at::kLong || labels.size(0) != logits.size(0) ||
      labels.device() != logits.device() || !PyFloat_CheckExact(args[2]) || !PyLong_CheckExact(args[3]) ||
      !PyBool_Check(args[5])) {
    Py_RETURN_NONE;
  }
  const double smoothing = PyFloat_AS_DOUBLE(args[2]);
  int overflow = 0;
  const int64_t ignore_index = PyLong_AsLongLongAndOverflow(args[3], &overflow);
  const int64_t reduction = place(args[4], {"none", "mean", "sum"}), backward = place(args[6], {"auto", "store", "recompute"});
  if (!(smoothing >= 0 && smoothing <= 1) || overflow != 0 || reduction < 0 || backward < 0) Py_RETURN_NONE;
  static const auto loss = op<Loss>("regfast::soft_cross_entropy");
  const bool inplace = args[5] == Py_True;
  at::Tensor value;
  {
    const pybind11::gil_scoped_release released;
    value = loss.call(logits, labels, {}, {}, 1.0, {}, {}, smoothing, {}, {}, ignore_index, reduction, true, 0.0, inplace,
                      backward);
  }
  return THPVariable_Wrap(std::move(value));
  END_HANDLE_TH_ERRORS
}

}  // namespace regfast

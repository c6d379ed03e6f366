"""A linear ranker on Triton's python backend: features in, weights · features + bias out."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        settings = json.loads(args["model_config"])["parameters"]
        self.weights = np.array(json.loads(settings["weights"]["string_value"]), dtype=np.float32)
        self.bias = np.float32(settings["bias"]["string_value"])

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        features = pb_utils.get_input_tensor_by_name(request, "features").as_numpy()
        scores = (features @ self.weights + self.bias).reshape(-1, 1)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("score", scores)])

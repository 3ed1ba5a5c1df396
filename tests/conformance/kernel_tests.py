"""jupyter_kernel_test's cases for the Python kernel, whichever kernelspec CONFORMANCE_KERNEL_NAME names.

Copied next to nothing else and run by pytest in the suite's environment; the harness never imports it.
"""

# ruff: noqa: RUF012  # the class attributes are how that package is told what to do

import os

import jupyter_kernel_test


class PythonKernelTests(jupyter_kernel_test.KernelTests):
    kernel_name = os.environ["CONFORMANCE_KERNEL_NAME"]
    language_name = "python"
    file_extension = ".py"

    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    code_page_something = "zip?"
    code_generate_error = "raise RuntimeError('expected')"
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"
    code_execute_result = [
        {"code": "1+2+3", "result": "6"},
        {"code": "[n*n for n in range(1, 4)]", "result": "[1, 4, 9]"},
    ]
    code_display_data = [
        {"code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))", "mime": "text/html"},
        {"code": "from IPython.display import Math, display; display(Math('\\\\frac{1}{2}'))", "mime": "text/latex"},
    ]

    completion_samples = [{"text": "zi", "matches": {"zip"}}]
    complete_code_samples = ["1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n"]
    incomplete_code_samples = ["print('''hello", "def f(x):\n  x*2"]
    invalid_code_samples = ["import = 7q"]

    code_history_pattern = "1?2*"
    # As in the package's own class for ipykernel; "range" names the current session 0: its case does not expect that.
    supported_history_operations = ("tail", "search")

    support_iopub_welcome = True

"""Watchers that the documented code uses without making them, one of each for a process."""

from seo_kernels.diagnostics.autograd_debugger import AutogradDebugger
from seo_kernels.diagnostics.autograd_monitor import AutogradMonitor
from seo_kernels.diagnostics.autograd_profiler import AutogradProfiler

autograd_debugger = AutogradDebugger()
autograd_monitor = AutogradMonitor()
autograd_profiler = AutogradProfiler()

"""The job of `funcbackprop check`: one gradient, held against the references."""

from ..check import GradientCheck
from ..files import write_text
from ..usage import UsageError, initial_params
from .config import CheckConfig
from .measure import Check
from .problems import task


def run(config: CheckConfig) -> GradientCheck:
    """Check the gradient of what `config` asks for, at its initial parameters.

    Raises:
      UsageError: the configuration cannot be run.
    """
    config.check()
    problem = task(config).problem
    check = Check(problem, config.seed, config.examples, config.intended)
    try:
        report = check.report(initial_params(problem, config.seed))
    except (TypeError, ValueError) as error:
        raise UsageError(f"--model {config.model}: {error}") from error
    if config.html is not None:
        write_text(config.html, report.to_html())
    return report

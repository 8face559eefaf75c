"""The data report."""


def report(dataset):
    raise NotImplementedError


def text(report):
    raise NotImplementedError

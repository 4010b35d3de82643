def report(names, out):
    return 0

"""The data plane: shards in, a stage (a generator over Arrow batches), shards out.

References travel through pipes, bytes live in files; a final name means a finished file.
"""
